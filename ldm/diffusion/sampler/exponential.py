"""The exponential integrator that DDIM, DPM-Solver++ and UniPC share.

Let lambda = log(alpha / sigma), h = lambda_s - lambda_t, and let D(u) be E[x | x_.] at the time of lambda_t + u h, with u
from 0 to 1. The solution of the probability-flow ODE (Lu et al. 2022, proposition 4.1) and that of the reverse SDE (the
same paper, SDE-DPM-Solver++) are

    ODE: x_s = (sigma_s / sigma_t) x_t         + alpha_s int_0^1   h exp(-h (1 - u))   D(u) du
    SDE: x_s = (sigma_s / sigma_t) exp(-h) x_t + alpha_s int_0^1 2 h exp(-2 h (1 - u)) D(u) du + sigma_s sqrt(1 - exp(-2 h)) z

with standard normal z. For a polynomial D(u) = m + a u + b u^2 the integral is psi_1 m + psi_2 a + psi_3 b, where

    psi_1 = 1 - exp(-H),  psi_2 = 1 - psi_1 / H,  psi_3 = 1 - 2 psi_2 / H,  and H = h for the ODE, 2 h for the SDE.

Where alpha_t = 0, h is infinite and exp(-h) = 0, so psi_1 = 1.

For small H these are differences of nearly equal numbers, and psi_3 loses as many digits as 1 / H^2 has. So they are
computed in float64: for H = 1e-4 eight digits are left. In float32 none were left with 4000 steps.

Sources:
    Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (2022),
        arXiv 2211.01095
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ldm.diffusion.denoiser import along
from ldm.diffusion.schedule import Schedule
from ldm.types import Latent, Time


@dataclass(frozen=True)
class Step:
    """The coefficients of a step from t to s, x_s = keep x_t + psi_1 m + psi_2 a + psi_3 b + up z, each (b,).

    The psi contain the factor alpha_s. Factors of latents have the dtype of t; lambda_t and h, of which differences are
    taken, are float64.
    """

    keep: Time
    psi_1: Time
    psi_2: Time
    psi_3: Time
    up: Time
    before: Time  # lambda_t
    h: Time

    @classmethod
    def between(cls, schedule: Schedule, t: Time, s: Time, sde: bool = False) -> Step:
        """The step from times t to times s, (b,), on a schedule, of the ODE or of the reverse SDE."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t.double()), schedule.alpha_sigma(s.double())
        before = alpha_t.log() - sigma_t.log()
        h = alpha_s.log() - sigma_s.log() - before
        keep, up, width = sigma_s / sigma_t, torch.zeros_like(sigma_s), h
        if sde:
            keep, up, width = keep * torch.exp(-h), sigma_s * (-torch.expm1(-2 * h)).sqrt(), 2 * h
        psi_1 = -torch.expm1(-width)
        psi_2 = 1 - psi_1 / width
        psi_3 = 1 - 2 * psi_2 / width
        factors = (keep, alpha_s * psi_1, alpha_s * psi_2, alpha_s * psi_3, up)
        return cls(*(each.to(t.dtype) for each in factors), before, h)

    def first(self, x_t: Latent, m: Latent) -> Latent:
        """x_s with D constant, equal to m = E[x | x_t]: DDIM."""
        return along(self.keep, m) * x_t + along(self.psi_1, m) * m

    def second(self, slope: Latent) -> Latent:
        """What the slope of D adds to `first`, by the midpoint rule: psi_1 / 2 times the slope, in place of psi_2 (Lu et al.
        2022, algorithm 2)."""
        return along(self.psi_1 / 2, slope) * slope

    def bent(self, near: tuple[Time, Latent], far: tuple[Time, Latent]) -> Latent:
        """What slope and curvature of D add to `first` where they are extrapolated from earlier points: the slope counts
        psi_1 / 2, as in `second`, and the curvature psi_1 / 6 (see ldm.diffusion.sampler.dpmpp)."""
        slope, bend = self._parabola(near, far)
        return along(self.psi_1 / 2, bend) * slope + along(self.psi_1 / 6, bend) * bend

    def third(self, near: tuple[Time, Latent], far: tuple[Time, Latent]) -> Latent:
        """What slope and curvature of D add to `first`, integrated exactly. `near` and `far` are (u, (D(u) - D(0)) / u) of
        two points."""
        slope, bend = self._parabola(near, far)
        return along(self.psi_2, bend) * slope + along(self.psi_3, bend) * bend

    @staticmethod
    def _parabola(near: tuple[Time, Latent], far: tuple[Time, Latent]) -> tuple[Latent, Latent]:
        """a and b of D(u) = m + a u + b u^2. `far` may be at u = -inf, which makes b zero."""
        bend = (far[1] - near[1]) / along(far[0] - near[0], near[1])
        return near[1] - along(near[0], bend) * bend, bend

    def slope(self, where: Time, m: Latent, other: Latent) -> tuple[Time, Latent]:
        """(u, (D(u) - D(0)) / u) for the point at lambda = `where`, at which D is `other`; m is D(0)."""
        u = ((where - self.before) / self.h).to(m.dtype)
        return u, (other - m) / along(u, m)
