"""The same denoiser under azula's guidance and under our posteriors: the same answers.

azula's vectors are (b, d) and ours latents (b, c, h, w), so its denoiser and operators are ours in other shapes. Its DPS is a
step of ancestral sampling minus zeta times the gradient of |y - A m|; ours moves m, which such a step multiplies by a number.
"""

import pytest
import torch

from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.diffpir import DiffPIR
from ldm.diffusion.posterior.dps import DPS
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Downsample
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import Rectified
from ldm.types import Context
from tests.diffusion.mixture import MixtureDenoiser

azula = pytest.importorskip("azula", reason="the extra `peers`")
guidance = pytest.importorskip("azula.guidance", reason="the extra `peers`")
covariance = pytest.importorskip("azula.linalg.covariance", reason="the extra `peers`")
denoise = pytest.importorskip("azula.denoise", reason="the extra `peers`")

SHAPE, T = (2, 2, 2), 0.6


class Ours(MixtureDenoiser):
    """The mixture of the plane in each of the four pixels, and neighbours that are not independent."""

    def forward(self, x_t, t, c):
        mixed = x_t + 0.3 * x_t.roll(1, 3)
        points = mixed.movedim(1, 3).reshape(-1, 2, 1, 1)
        return super().forward(points, t.repeat_interleave(4), c).view(-1, 2, 2, 2).movedim(3, 1)


class Theirs(denoise.Denoiser):
    def __init__(self, ours):
        super().__init__()
        self.ours = ours

    def schedule(self, t):
        return 1 - t, t

    def forward(self, x_t, t):
        x = self.ours(x_t.view(-1, *SHAPE), t.expand(len(x_t)), Context())
        return denoise.DiracPosterior(mean=x.flatten(1))


def given(rows=3, noise=0.3):
    ours, a = Ours(Rectified()), Downsample(2)
    x_t = torch.randn(rows, *SHAPE, dtype=torch.float64)
    y = torch.randn(rows, 2, 1, 1, dtype=torch.float64)
    return ours, Measurement(a, y, noise), x_t, torch.full((rows,), T, dtype=torch.float64)


def flat(x):
    return Downsample(2)(x.view(-1, *SHAPE)).flatten(1)


@pytest.mark.parametrize("iterations", [1, 2])
def test_mmps(iterations):
    ours, seen, x_t, t = given()
    found = MMPS(ours, seen, iterations)(x_t, t, Context())
    theirs = guidance.MMPSDenoiser(
        Theirs(ours), seen.y.flatten(1), flat, covariance.IsotropicCovariance(0.09), solver="cg", iterations=iterations
    )
    wanted = theirs(x_t.flatten(1), t[0]).mean.view_as(x_t)
    assert torch.allclose(found, wanted) and not torch.allclose(found, ours(x_t, t, Context()), atol=1e-2)


def test_diffpir():
    ours, seen, x_t, t = given()
    found = DiffPIR(ours, seen, strength=2.5)(x_t, t, Context())
    theirs = guidance.DiffPIRDenoiser(Theirs(ours), seen.y.flatten(1), flat, 0.09, lmbda=2.5, solver="cg", iterations=4)
    assert torch.allclose(found, theirs(x_t.flatten(1), t[0]).mean.view_as(x_t))


def test_a_step_of_dps():
    ours, seen, x_t, t = given(rows=1)
    s = t - 0.2
    left = seen.y - seen.operator(ours(x_t, t, Context()))
    back = seen.operator.adjoint(left)
    variance = 0.09 + (T / (1 - T)) ** 2 * back.square().sum() / left.square().sum()
    alpha_s, sigma_s = 1 - s[0], s[0]
    share = alpha_s - ((1 - T) / alpha_s) * (sigma_s / T) ** 2 * (1 - T)  # what the step makes of m
    zeta = share * T**2 / (1 - T) * left.norm() / variance
    theirs = guidance.DPSSampler(Theirs(ours), seen.y.flatten(1), flat, zeta=zeta)
    state = torch.get_rng_state()
    wanted = theirs.step(x_t.flatten(1), t[0], s[0]).view_as(x_t)
    torch.set_rng_state(state)
    found, _ = DDIM(1.0).step(DPS(ours, seen), x_t, t, s, Context(), lambda: torch.randn_like(x_t), None)
    assert torch.allclose(found, wanted)
