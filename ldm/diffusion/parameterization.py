"""Parameterizations: what the network predicts, F = a x + b eps.

Together with x_t = alpha x + sigma eps this is a system of two linear equations in x and eps. Its solution for x is
x = (b x_t - sigma F) / det with det = alpha b - sigma a. So a parameterization is completely given by the pair (a, b).

det is -sigma for `data`, alpha for `noise`, alpha^2 + sigma^2 for `v`, -sqrt(alpha^2 s^2 + sigma^2) / s for `karras` and
-(alpha sigma / 2) d log SNR / dt for `velocity`. For 0 < t < 1 none of them is zero on any schedule. At t = 1 the one of
`noise` is zero on schedules that end in pure noise, where alpha = 0; `check` refuses this combination.

Sources:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models (2022), arXiv 2202.00512
    Lipman et al., Flow Matching for Generative Modeling (2022), arXiv 2210.02747
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from pydantic import PositiveFloat

from ldm.constructed import Constructed
from ldm.diffusion.schedule import Schedule
from ldm.types import Time


class Parameterization(Constructed, ABC):
    """What a network predicts, as a mixture of the data x and the noise eps: F = a(t) x + b(t) eps."""

    @abstractmethod
    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        """(a, b) of F = a x + b eps at times t (b,)."""

    def check(self, schedule: Schedule) -> None:
        """Raise ValueError where F does not determine x at t = 1, at which a sampler begins."""
        t = torch.ones(1, dtype=torch.float64)
        alpha, sigma = schedule.alpha_sigma(t)
        a, b = self.pair(schedule, t)
        det = (alpha * b - sigma * a).item()
        if det == 0 or not math.isfinite(det):
            raise ValueError(
                f"{type(self).__name__.lower()} prediction says nothing of x at t = 1 of {type(schedule).__name__}, "
                f"where alpha = {alpha.item():g} (det = {det:g}); use parameterization v, data or karras, or a schedule "
                "that ends before pure noise"
            )


class Data(Parameterization):
    """F = x."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return torch.ones_like(t), torch.zeros_like(t)


class Noise(Parameterization):
    """F = eps (DDPM, Ho et al. 2020, equation 14). It does not determine x where alpha = 0."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return torch.zeros_like(t), torch.ones_like(t)


class V(Parameterization):
    """F = alpha eps - sigma x (Salimans and Ho 2022, appendix D). F has unit variance on schedules that preserve variance;
    on all others `karras` has."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        alpha, sigma = schedule.alpha_sigma(t)
        return -sigma, alpha


class Velocity(Parameterization):
    """F = alpha' x + sigma' eps, the velocity dx_t/dt (flow matching, Lipman et al. 2022). On the schedule `rectified` it is
    eps - x."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return schedule.derivative(t)


class Karras(Parameterization):
    """F = (sigma x - alpha s^2 eps) / (s sqrt(alpha^2 s^2 + sigma^2)), with s = `sigma_data`: the preconditioning of EDM
    (Karras et al. 2022, table 1) on any schedule.

    Of all pairs (a, b) with an F of unit variance, this one makes the factor c_out of the network's output in the denoiser
    smallest, and with it the effect of the network's errors. For s = 1 and a schedule that preserves variance, F = -v.

    Arguments:
        sigma_data: standard deviation s of the data; whitened latents have 1.
    """

    def __init__(self, sigma_data: PositiveFloat = 1.0):
        self.sigma_data = sigma_data

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        alpha, sigma = schedule.alpha_sigma(t)
        s = self.sigma_data
        scale = s * (alpha**2 * s**2 + sigma**2).sqrt()
        return sigma / scale, -alpha * s**2 / scale
