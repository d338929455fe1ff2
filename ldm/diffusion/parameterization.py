"""Parameterizations: what the network predicts, F = a x + b eps.

With x_t = alpha x + sigma eps these are two linear equations in x and eps; with det = alpha b - sigma a,
x = (b x_t - sigma F) / det. So a parameterization is the pair (a, b) and nothing else.

det is -sigma for data, alpha for noise, alpha^2 + sigma^2 for v, -sqrt(alpha^2 s^2 + sigma^2) / s for karras and
-alpha sigma / 2 dlog_snr/dt for velocity. Where 0 < t < 1 none of them is zero under any schedule; at t = 1 noise is
zero where alpha is, and `check` refuses the pair.
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
        """ValueError where F says nothing of x at t = 1, where a sampler begins."""
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
    """F = eps (DDPM, arXiv 2006.11239, equation 14). Undefined where alpha = 0."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return torch.zeros_like(t), torch.ones_like(t)


class V(Parameterization):
    """F = alpha eps - sigma x (progressive distillation, arXiv 2202.00512, appendix D): of unit variance where the
    schedule preserves variance; elsewhere karras is."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        alpha, sigma = schedule.alpha_sigma(t)
        return -sigma, alpha


class Velocity(Parameterization):
    """F = alpha' x + sigma' eps, the velocity dx_t/dt (flow matching, arXiv 2210.02747; rectified: eps - x)."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return schedule.derivative(t)


class Karras(Parameterization):
    """F = (sigma x - alpha s^2 eps) / (s sqrt(alpha^2 s^2 + sigma^2)), s = `sigma_data` the deviation of the data: the
    preconditioning of EDM (arXiv 2206.00364, table 1) on any schedule. F is of unit variance and the least that has to
    be learnt, c_out, is smallest; with s = 1 and variance preserved it is -v. Latents have s = 1.

    Arguments:
        sigma_data: deviation of the data; whitened latents have 1.
    """

    def __init__(self, sigma_data: PositiveFloat = 1.0):
        self.sigma_data = sigma_data

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        alpha, sigma = schedule.alpha_sigma(t)
        s = self.sigma_data
        scale = s * (alpha**2 * s**2 + sigma**2).sqrt()
        return sigma / scale, -alpha * s**2 / scale
