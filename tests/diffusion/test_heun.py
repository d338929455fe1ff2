"""Heun's method against the algorithm as it was published, and where it departs from it; values by hand."""

import itertools
import math

import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.grid import Karras
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.heun import Heun
from ldm.diffusion.schedule import Cosine, Exploding, Rectified
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser
from tests.diffusion.mixture import MixtureDenoiser

SCHEDULE = Exploding()


class Given(Random):
    """The n-th noise that is asked for is the n-th of all."""

    def __init__(self, noise):
        super().__init__(0, 0, torch.arange(noise.shape[1]))
        self.noise = iter(noise)

    def normal(self, stream, shape=()):
        return next(self.noise)


def published(denoise, x, sigmas, noise, s_churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0):
    """EDM, arXiv 2206.00364, algorithm 2, line by line; `noise` is an iterator."""
    n = len(sigmas) - 1
    for sigma, end in itertools.pairwise(sigmas):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_min <= sigma <= s_max else 0
        eps = s_noise * next(noise) if s_churn else torch.zeros_like(x)
        raised = sigma + gamma * sigma
        x = x + math.sqrt(raised**2 - sigma**2) * eps
        d = (x - denoise(x, raised)) / raised
        euler = x + (end - raised) * d
        if end > 0:
            d = (d + (euler - denoise(euler, end)) / end) / 2
        x = x + (end - raised) * d
    return x


def compared(steps, limit=1.0, **churn):
    """Our samples of the mixture along EDM's grid, and those of the published algorithm."""
    denoiser, times = MixtureDenoiser(SCHEDULE), Karras()(SCHEDULE, steps).double()
    sigmas = [SCHEDULE.alpha_sigma(t[None])[1].item() for t in times]
    noise = torch.randn(steps + 1, 6, 2, 1, 1, generator=torch.Generator().manual_seed(0)).double()

    def denoise(x, sigma):
        t = SCHEDULE.time(-2 * torch.full((len(x),), sigma).double().log())
        return denoiser(x, t, Context())

    wanted = published(denoise, sigmas[0] * noise[0], sigmas, iter(noise[1:]), **churn)
    found = Heun(**churn, limit=limit)(denoiser, sigmas[0] * noise[0], times, Context(), Given(noise[1:]))
    return found, wanted


# Of the paper's table 5; 40 / 18 is beyond the greatest churn, 5 / 18 is not. Noise is never added at the grid's first time,
# which is the schedule's end here and its greatest sigma there.
CHURNS = {
    "none": {},
    "below the cap": {"s_churn": 5.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
    "at the cap": {"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.007},
    "in the middle": {"s_churn": 40.0, "s_min": 0.5, "s_max": 5.0, "s_noise": 0.9},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("churn", CHURNS)
def test_without_its_limit_it_is_edms_algorithm(churn):
    found, wanted = compared(18, math.inf, **CHURNS[churn])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_it_is_edms_algorithm_where_no_step_more_than_halves_the_noise():
    sigmas = torch.exp(-SCHEDULE.log_snr(Karras()(SCHEDULE, 48)[:-1].double()) / 2)
    assert (sigmas[:-1] < 2 * sigmas[1:]).all()
    found, wanted = compared(48)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


class Answers(Denoiser):
    """One number at each of two times."""

    def __init__(self, schedule, at_t, at_s):
        super().__init__()
        self.schedule, self.answers = schedule, iter((at_t, at_s))

    def forward(self, x_t, t, c):
        return torch.full_like(x_t, next(self.answers))


def one_step(schedule, t, s, limit=1.0):
    """x_s from x_t = 2 where the denoiser says 3 at t and 5 at s."""
    t, s = torch.tensor([t]).double(), torch.tensor([s]).double()
    x = torch.full((1, 1, 1, 1), 2.0).double()
    return Heun(limit=limit).step(Answers(schedule, 3.0, 5.0), x, t, s, Context(), lambda: x, 0.0)[0].item()


def test_one_step_by_hand():
    """On the straight path: from sigma / alpha = 4 (t = 0.8) to 2.5 and to 1, and from pure noise."""
    s = 2.5 / 3.5
    keep, part = s / 0.8, (1 - s) - 0.2 * s / 0.8
    assert one_step(Rectified(), 0.8, s) == pytest.approx(keep * 2 + part * (0.2 * 3 + 0.8 * 5))  # w = 4 / (2 * 2.5)
    keep, part = 0.5 / 0.8, 0.5 - 0.2 * 0.5 / 0.8
    assert one_step(Rectified(), 0.8, 0.5) == pytest.approx(keep * 2 + part * 5)  # w = 2, limited to 1
    assert one_step(Rectified(), 0.8, 0.5, 1.5) == pytest.approx(keep * 2 + part * (5 + 0.5 * 2))
    assert one_step(Rectified(), 0.8, 0.5, math.inf) == pytest.approx(keep * 2 + part * (5 + 1 * 2))
    for limit in (1.0, math.inf):
        assert one_step(Rectified(), 1.0, 0.5, limit) == pytest.approx(0.5 * 2 + 0.5 * 5)


@pytest.mark.usefixtures("unchecked")
def test_from_almost_pure_noise_it_is_better_than_ddim():
    """The cosine schedule begins at alpha = 0.0006. For N(0, 0.5^2) under N(0, 1) noise the ODE only scales, so a sample's
    deviation is an exact number: 0.5 is right, and EDM's trapezoid is off by more than the data's own deviation."""
    denoiser, x = GaussianDenoiser(Cosine(), 0.0, 0.5), torch.ones(1, 1, 1, 1).double()
    for steps, bound in ((3, 0.35), (10, 0.1)):
        times, off = torch.linspace(1, 0, steps + 1).double(), []
        for sampler in (Heun(), DDIM(), Heun(limit=math.inf)):
            found = sampler(denoiser, x, times, Context(), Random(0, 0, torch.arange(1)))
            off.append(abs(found.item() / 0.5 - 1))
        assert off[0] < min(off[1], bound), off
        assert off[2] > off[1], off
