"""The integrals that DDIM, DPM-Solver++ and UniPC share, against quadrature; and the polynomials that they are used with."""

import itertools

import numpy as np
import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.sampler.dpmpp import DPMpp
from ldm.diffusion.sampler.exponential import Step
from ldm.diffusion.schedule import Cosine, Rectified, ScaledLinear
from ldm.types import Context

U, WEIGHT = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(60))
U, WEIGHT = (U + 1) / 2, WEIGHT / 2


def times(steps, dtype):
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1].to(dtype)
    return t[:-1], t[1:]


@pytest.mark.parametrize("schedule", [Cosine(), ScaledLinear()])
@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("steps", [10, 1000, 4000])
def test_the_integrals_in_single_precision(schedule, sde, steps):
    """psi_n = alpha_s int_0^1 H exp(-H (1 - u)) u^(n - 1) du: at 4000 steps H is about 1e-3, and what float32 leaves of the
    closed form of psi_3 is nothing."""
    t, s = times(steps, torch.float32)
    step = Step.between(schedule, t, s, sde)
    h = (schedule.log_snr(s.double()) - schedule.log_snr(t.double())) / 2
    width, alpha = (2 * h if sde else h)[:, None], schedule.alpha_sigma(s.double())[0]
    for power, found in enumerate((step.psi_1, step.psi_2, step.psi_3)):
        wanted = alpha * (WEIGHT * width * torch.exp(-width * (1 - U)) * U**power).sum(1)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=0)


def test_steps_from_pure_noise():
    """alpha_t = 0: psi are those of an infinite step, and what is kept is sigma_s / sigma_t, or nothing of the SDE's."""
    t, s = torch.ones(1).double(), torch.full((1,), 0.25).double()
    ode, sde = Step.between(Rectified(), t, s), Step.between(Rectified(), t, s, True)
    assert [each.item() for each in (ode.keep, ode.psi_1, ode.psi_2, ode.psi_3, ode.up)] == [0.25, 0.75, 0.75, 0.75, 0]
    assert [each.item() for each in (sde.keep, sde.psi_1, sde.up)] == [0, 0.75, 0.25]


def test_the_noise_of_the_reverse_sde():
    """up^2 = sigma_s^2 (1 - exp(-2 h)) and keep = sigma_s / sigma_t exp(-h), at sigma / alpha from 3 to 1."""
    step = Step.between(Rectified(), torch.tensor([0.75]).double(), torch.tensor([0.5]).double(), True)
    assert step.up.item() == pytest.approx(0.5 * (1 - 1 / 9) ** 0.5)
    assert step.keep.item() == pytest.approx(0.5 / 0.75 / 3)


class Curve(Denoiser):
    """D = lambda^2 at each noise level, whatever x_t."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, t, c):
        return (self.schedule.log_snr(t) / 2).square().view(-1, 1, 1, 1).expand_as(x_t)


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("points", [2, 3])
def test_the_third_step_by_hand(points, sde):
    """On D(u) = (l + h u)^2, of slope 2 l h and curvature h^2 at u = 0. Two points see the secant to the last one; three see
    the parabola, and take slope / 2 + curvature / 6 of it, which is not the same where steps are unequal or long."""
    schedule = Rectified()
    lambdas = [-2.0, -1.0, 0.5, 1.2]
    ts = [schedule.time(torch.tensor([2 * each]).double()) for each in lambdas]
    sampler, x, memory = DPMpp(points, sde), torch.full((1, 1, 1, 1), 0.7).double(), None
    for t, s in itertools.pairwise(ts):
        before = x
        x, memory = sampler.step(Curve(schedule), x, t, s, Context(), lambda: torch.zeros(1, 1, 1, 1).double(), memory)
    (alpha, _), (_, sigma_t), (_, sigma_s) = (schedule.alpha_sigma(t) for t in (ts[3], ts[2], ts[3]))
    here, h, last = 0.5, 0.7, -1.5 / 0.7
    width = 2 * h if sde else h
    added = (2 * here * h + h**2 * last) / 2 if points == 2 else (2 * here * h) / 2 + h**2 / 6
    keep = (sigma_s / sigma_t).item() * np.exp(h - width)
    assert x.item() == pytest.approx(keep * before.item() + alpha.item() * (1 - np.exp(-width)) * (here**2 + added))
