"""The exponential integrator that DDIM, DPM-Solver++ and UniPC share.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t and D(u) = E[x | x_.] at lambda_t + u h, the probability-flow
ODE is solved by x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^1 h exp(-h (1 - u)) D(u) du (arXiv 2211.01095,
proposition 4.1), and the reverse SDE by the same with 2 h in place of h below the integral, exp(-h) x_t and sigma_s
sqrt(1 - exp(-2 h)) z (its SDE-DPM-Solver++). For D(u) = m + a u + b u^2 the integral is psi_1 m + psi_2 a + psi_3 b
with

    psi_1 = 1 - exp(-H),  psi_2 = 1 - psi_1 / H,  psi_3 = 1 - 2 psi_2 / H,  H = h or 2 h.

Where alpha_t = 0, h is infinite and exp(-h) = 0, so psi_1 = 1.

For small H these are differences of numbers that are nearly equal: psi_3 keeps all but 1 / H^2 of the digits. So they are
computed in float64, where at steps of H = 1e-4 eight of them are left; in float32 at 4000 steps there were none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ldm.diffusion.denoiser import along
from ldm.diffusion.schedule import Schedule
from ldm.types import Latent, Time


@dataclass(frozen=True)
class Step:
    """From t to s: x_s = keep x_t + psi_1 m + psi_2 a + psi_3 b + up z; alpha_s is in the psi, and all are (b,).

    What multiplies a latent has the type of t; lambda_t and h, of which only differences matter, are float64.
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
        """x_s where D stays what it is at t; DDIM."""
        return along(self.keep, m) * x_t + along(self.psi_1, m) * m

    def second(self, slope: Latent) -> Latent:
        """What D's slope adds: by the midpoint, psi_1 / 2 in place of psi_2 (arXiv 2211.01095, algorithm 2)."""
        return along(self.psi_1 / 2, slope) * slope

    def bent(self, near: tuple[Time, Latent], far: tuple[Time, Latent]) -> Latent:
        """What slope and curvature of D add beyond the points that they are known from: both as `second` has it, by the
        middle of the step, and the curvature by half (see ldm/diffusion/sampler/dpmpp.py)."""
        slope, bend = self._parabola(near, far)
        return along(self.psi_1 / 2, bend) * slope + along(self.psi_1 / 6, bend) * bend

    def third(self, near: tuple[Time, Latent], far: tuple[Time, Latent]) -> Latent:
        """What slope and curvature of D add, integrated exactly, from its slopes (u, (D(u) - D(0)) / u) to two points."""
        slope, bend = self._parabola(near, far)
        return along(self.psi_2, bend) * slope + along(self.psi_3, bend) * bend

    @staticmethod
    def _parabola(near: tuple[Time, Latent], far: tuple[Time, Latent]) -> tuple[Latent, Latent]:
        """a and b of D(u) = m + a u + b u^2; `far` may be at infinity, where nothing is known of the curvature."""
        bend = (far[1] - near[1]) / along(far[0] - near[0], near[1])
        return near[1] - along(near[0], bend) * bend, bend

    def slope(self, where: Time, m: Latent, other: Latent) -> tuple[Time, Latent]:
        """(u, (D(u) - D(0)) / u) of D at lambda `where`."""
        u = ((where - self.before) / self.h).to(m.dtype)
        return u, (other - m) / along(u, m)
