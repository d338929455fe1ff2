"""A diffusion's densities, on data whose density is known; and that nobody asks for them unawares."""

import pytest
import torch

from ldm.diffusion.grid import Leading, Trailing
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.likelihood import Exact, Flow, Hutchinson
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.time import Uniform
from ldm.diffusion.weighting import Prediction
from ldm.ode import RungeKutta
from ldm.prior.base import Latents, Likelihood
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.diffusion.exact import ExactNetwork
from tests.diffusion.gaussian import GaussianDenoiser
from tests.pieces import pieces
from tests.stage.tiny import second

SCHEDULES, PARAMETERIZATIONS = pieces("diffusion/schedule"), pieces("diffusion/parameterization")
MEAN, STD = 0.3, 0.6


def prior(schedule, parameterization="v", denoiser=None, grid=None, sampler=None, **options) -> Diffusion:
    """With a backbone that is exact."""
    parts = SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()

    def backbone(channels, context):
        return ExactNetwork(*parts, denoiser=None if denoiser is None else denoiser(parts[0]))

    rest = (Prediction(), Uniform(), sampler or DDIM(), grid or Trailing(), ClassifierFree)
    return Diffusion(Latents((2, 1, 1)), ContextShape(), backbone, *parts, *rest, **options)


def gaussian(schedule):
    return GaussianDenoiser(schedule, MEAN, STD)


def normal(z, blur):
    law = torch.distributions.Normal(torch.tensor(MEAN).double(), (STD**2 + blur**2) ** 0.5)
    return law.log_prob(z).flatten(1).sum(1)


@pytest.mark.parametrize(("schedule", "parameterization"), [("cosine", "v"), ("rectified", "velocity")])
def test_the_density_of_normal_data(schedule, parameterization):
    """Every sign gives the trace of a diagonal Jacobian, so the estimate has no error here but the solver's."""
    one = prior(schedule, parameterization, gaussian)
    assert isinstance(one, Likelihood) and one.kind == "estimate"
    z = MEAN + STD * torch.randn(4, 2, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    alpha, sigma = one.denoiser.schedule.alpha_sigma(torch.tensor([one.likelihood.start]).double())
    found = one.log_prob(z, Context())
    assert (found - normal(z, sigma / alpha)).abs().max() < 2e-3
    assert (one.log_prob(z.float(), Context()) - found).abs().max() < 0.02


@pytest.mark.usefixtures("unchecked")
def test_the_density_of_a_mixture():
    one = prior("cosine", likelihood=Flow(Exact(), RungeKutta(100), 0.01))
    assert one.kind == "exact"
    exact = one.denoiser.backbone.denoiser
    z, t = exact.draw(16, torch.Generator().manual_seed(1)), torch.full((16,), 0.01).double()
    alpha, _ = exact.schedule.alpha_sigma(t)
    wanted = exact.log_density(alpha.view(-1, 1, 1, 1) * z, t) + 2 * alpha.log()
    assert (one.log_prob(z, Context()) - wanted).abs().max() < 2e-3


@pytest.mark.usefixtures("unchecked")
def test_the_estimate_is_seeded_and_without_state():
    one = prior("cosine", likelihood=Flow(Hutchinson(), RungeKutta(20), 0.05))
    z = one.denoiser.backbone.denoiser.draw(6, torch.Generator().manual_seed(2))
    first = one.log_prob(z, Context())
    torch.manual_seed(7)
    assert torch.equal(first, one.log_prob(z, Context()))
    assert torch.equal(first, one.log_prob(z, Context(), Random(0, 0, torch.arange(6))))
    assert not torch.equal(first, one.log_prob(z, Context(), Random(1, 0, torch.arange(6))))
    assert torch.equal(first[2:], one.log_prob(z[2:], Context(), Random(0, 0, torch.arange(2, 6))))


def test_validation_is_the_loss_by_time(monkeypatch):
    """A density costs hundreds of calls of the network: nothing asks for one that was not told to."""

    def log_prob(*_):
        raise AssertionError("a density was computed")

    monkeypatch.setattr(Diffusion, "log_prob", log_prob)
    batch = {"image": torch.zeros(4, 3, 8, 8), "label": torch.arange(4) % 3, "index": torch.arange(4)}
    terms = second().validation_terms(batch, Random(0, 0, batch["index"]))
    assert set(terms) == {"diffusion", *(f"loss_t{i}" for i in range(4))}


class Begins(Sampler):
    """What a sample begins with, as it is."""

    order = 1

    def step(self, denoiser, x_t, t, s, c, noise, memory):
        return x_t, memory

    def __call__(self, denoiser, x_t, times, c, random):
        return x_t


@pytest.mark.parametrize("grid", [Leading(), Trailing()])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_sample_begins_as_whitened_data_under_noise(name, grid):
    """N(0, alpha^2 + sigma^2) at the grid's first time: the unit normal of published samplers where variance is kept."""
    parameterization = "velocity" if name in ("rectified", "shifted") else "karras"
    one, random = prior(name, parameterization, grid=grid, sampler=Begins(), steps=5), Random(0, 0, torch.arange(3))
    schedule, eps = one.denoiser.schedule, random.normal("prior", (2, 1, 1))
    alpha, sigma = schedule.alpha_sigma(grid(schedule, 5)[:1])
    x = one.sample((3, 2, 1, 1), Context(), random)
    torch.testing.assert_close(x, (alpha**2 + sigma**2).sqrt() * eps)
    if name in ("scaled_linear", "linear", "cosine"):
        torch.testing.assert_close(x, eps)
