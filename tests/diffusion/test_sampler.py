"""Laws of every sampler and guidance: on Gaussian data the ODE and the moments are known."""

import itertools

import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.ddpm import DDPM
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser
from tests.pieces import pieces

SCHEDULES, SAMPLERS, GUIDANCE = pieces("diffusion/schedule"), pieces("diffusion/sampler"), pieces("diffusion/guidance")
MEAN, STD = 0.3, 0.6


def run(sampler, schedule, times, n=64, side=2, seed=0):
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    random = Random(seed, 0, torch.arange(n))
    t = times[:1].expand(n)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule.alpha_sigma(t))
    z = random.normal("start", (1, side, side)).double()
    x = alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt() * z
    return denoiser, x, sampler(denoiser, x, times, Context(), random)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_converges_at_first_order(name):
    schedule, errors = SCHEDULES[name](), []
    for steps in (40, 80, 160):
        times = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        denoiser, x, found = run(DDIM(), schedule, times)
        n = len(x)
        exact = denoiser.flow(x, times[:1].expand(n), times[-1:].expand(n))
        errors.append((found - exact).abs().mean())
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.4


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_reversed_inverts(name):
    schedule = SCHEDULES[name]()
    times = torch.linspace(0.8, 0.2, 401, dtype=torch.float64)
    denoiser, x, found = run(DDIM(), schedule, times)
    back = DDIM()(denoiser, found, times.flip(0), Context(), Random(0, 0, torch.arange(len(x))))
    assert (back - x).abs().max() < 0.02


STOCHASTIC = {"ddpm small": DDPM(), "ddpm large": DDPM(large=True), "ddim eta 1": DDIM(1.0), "ddim eta 0.5": DDIM(0.5)}


@pytest.mark.parametrize(("name", "sampler"), itertools.product(SCHEDULES, STOCHASTIC))
def test_stochastic_samplers_keep_the_moments(name, sampler):
    """N = 16,000 numbers: standard errors 0.0047 of the mean and 0.0034 of the deviation; 5 of them, and a first-order step."""
    times = torch.linspace(0.95, 0.0, 201, dtype=torch.float64)
    _, _, found = run(STOCHASTIC[sampler], SCHEDULES[name](), times, n=4000)
    assert abs(found.mean() - MEAN) < 0.03
    assert abs(found.std() - STD) < 0.03


def test_ddpm_with_the_small_variance_is_ddim_with_eta_one():
    times = torch.linspace(1, 0, 21, dtype=torch.float64)
    schedule = SCHEDULES["scaled_linear"]()
    assert torch.allclose(run(DDPM(), schedule, times)[2], run(DDIM(1.0), schedule, times)[2], atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
    sampler, schedule = SAMPLERS[name](), SCHEDULES["scaled_linear"]()
    denoiser, times, rows = GaussianDenoiser(schedule, MEAN, STD), torch.linspace(1, 0, 6), torch.arange(6)
    random = Random(3, 0, rows)
    x = random.normal("start", (1, 2, 2))
    whole = sampler(denoiser, x, times, Context(), random)
    for part in (slice(0, 2), slice(2, 6)):
        assert torch.equal(whole[part], sampler(denoiser, x[part], times, Context(), random[part]))


class Sees(Denoiser):
    """A denoiser whose answer is the mean of its tokens, counting its calls."""

    def __init__(self):
        super().__init__()
        self.schedule, self.calls = SCHEDULES["cosine"](), 0

    def forward(self, x_t, t, c):
        self.calls += 1
        return c.tokens.mean((1, 2)).view(-1, 1, 1, 1).expand_as(x_t)


def conditioned():
    empty = Context(tokens=torch.full((1, 1, 2), -1.0))
    return Context(tokens=torch.full((3, 1, 2), 2.0), empty=empty)


@pytest.mark.parametrize("name", GUIDANCE)
def test_neutral_guidance_is_the_identity(name):
    plain, x, t = Sees(), torch.randn(3, 1, 2, 2), torch.full((3,), 0.5)
    guided = GUIDANCE[name]()(plain, scale=1.0)
    assert torch.equal(guided(x, t, conditioned()), plain(x, t, conditioned()))


def test_guidance_is_linear_and_one_call():
    plain, x, t = Sees(), torch.randn(3, 1, 2, 2), torch.full((3,), 0.5)
    for scale, wanted in ((0.0, -1.0), (1.0, 2.0), (3.0, 8.0)):
        plain.calls = 0
        assert (ClassifierFree(plain, scale)(x, t, conditioned()) == wanted).all()
        assert plain.calls == 1
