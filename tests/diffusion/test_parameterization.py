"""Laws of every parameterization, weighting, time law and grid, under every schedule."""

import itertools

import pytest
import torch

from ldm.diffusion.denoiser import NetworkDenoiser
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser, at
from tests.pieces import pieces

SCHEDULES, PARAMETERIZATIONS = pieces("diffusion/schedule"), pieces("diffusion/parameterization")
WEIGHTINGS, TIMES, GRIDS = pieces("diffusion/weighting"), pieces("diffusion/time"), pieces("diffusion/grid")
PAIRS = list(itertools.product(SCHEDULES, PARAMETERIZATIONS))


class Exact(torch.nn.Module):
    """The backbone that predicts F exactly for one x and eps."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, z, log_snr, c):
        return self.target


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_the_target_gives_x_back(schedule, parameterization):
    schedule, parameterization = SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()
    torch.manual_seed(0)
    t = torch.linspace(0.02, 0.98, 64)
    x, eps = torch.randn(64, 2, 3, 3), torch.randn(64, 2, 3, 3)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule.alpha_sigma(t))
    a, b = (v.view(-1, 1, 1, 1) for v in parameterization.pair(schedule, t))
    denoiser = NetworkDenoiser(Exact(a * x + b * eps), schedule, parameterization)
    found = denoiser(alpha * x + sigma * eps, t, Context())
    # Where almost no signal is left, x can be no more exact than float32's rounding of x_t divided by alpha.
    assert ((found - x).abs() <= 2e-5 + 5e-6 / alpha).all()
    error, _ = denoiser.loss(x, eps, t, Context())
    assert (error < 1e-9).all()


@pytest.mark.parametrize(("schedule", "parameterization"), PAIRS)
def test_a_weighting_means_the_same_for_every_parameterization(schedule, parameterization):
    """The error of eps of a denoiser that is off by a known dx is (alpha dx / sigma)^2, whatever it predicts."""
    schedule, parameterization = SCHEDULES[schedule](), PARAMETERIZATIONS[parameterization]()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    a, b = parameterization.pair(schedule, t)
    det, dx = alpha * b - sigma * a, 0.3
    d_prediction = -det / sigma * dx  # x = (b x_t - sigma F) / det
    log_snr = schedule.log_snr(t)
    wanted = {"uniform": torch.ones_like(t), "min_snr": (5 * torch.exp(-log_snr)).clamp(max=1)}
    for name, weight in wanted.items():
        found = WEIGHTINGS[name]()(log_snr, (alpha / det) ** 2) * d_prediction**2
        assert torch.allclose(found, weight * (alpha / sigma * dx) ** 2, rtol=1e-6)


def test_min_snr_for_v_is_the_papers():
    """min(SNR, gamma) / (SNR + 1) on |v error|^2 (arXiv 2303.09556, section 3.4)."""
    schedule, t = SCHEDULES["cosine"](), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    snr = schedule.log_snr(t).exp()
    alpha, _ = schedule.alpha_sigma(t)
    assert torch.allclose(WEIGHTINGS["min_snr"]()(schedule.log_snr(t), alpha**2), snr.clamp(max=5) / (snr + 1))


@pytest.mark.parametrize("name", TIMES)
def test_time_laws_are_increasing_and_inside(name):
    t = TIMES[name]()(torch.linspace(0, 1 - 2**-24, 10_001))
    assert (t > 0).all() and (t <= 1).all() and (t.diff() >= 0).all()


def test_logit_normal_has_its_moments():
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    logit = torch.logit(TIMES["logit_normal"]()(u))
    assert abs(logit.mean()) < 1e-3 and abs(logit.std() - 1) < 1e-2


@pytest.mark.parametrize(("grid", "schedule"), list(itertools.product(GRIDS, SCHEDULES)))
def test_grids_fall_to_zero(grid, schedule):
    for steps in (1, 7, 50):
        times = GRIDS[grid]()(SCHEDULES[schedule](), steps)
        assert len(times) == steps + 1 and times[-1] == 0 and (times.diff() < 0).all() and times[0] <= 1


def test_the_exact_denoiser_has_the_least_loss():
    """Of all multiples of the optimal denoiser's correction, the optimal one has the least expected loss."""
    schedule = SCHEDULES["cosine"]()
    torch.manual_seed(0)
    x = 0.5 + 0.4 * torch.randn(4000, 1, 1, 1, dtype=torch.float64)
    t = at(0.6, 4000)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule.alpha_sigma(t))
    x_t = alpha * x + sigma * torch.randn_like(x)
    best = (GaussianDenoiser(schedule, 0.5, 0.4)(x_t, t, Context()) - x).square().mean()
    for other in (GaussianDenoiser(schedule, 0.5, 0.5), GaussianDenoiser(schedule, 0.45, 0.4)):
        assert (other(x_t, t, Context()) - x).square().mean() > best
