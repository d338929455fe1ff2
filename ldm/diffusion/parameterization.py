"""Parameterizations: what the network predicts, F = a x + b eps.

With x_t = alpha x + sigma eps these are two linear equations in x and eps; with det = alpha b - sigma a,
x = (b x_t - sigma F) / det. So a parameterization is the pair (a, b) and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ldm.diffusion.schedule import Schedule
from ldm.types import Time


class Parameterization(ABC):
    @abstractmethod
    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        """(a, b) of F = a x + b eps at times t (b,)."""


class Data(Parameterization):
    """F = x."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return torch.ones_like(t), torch.zeros_like(t)


class Noise(Parameterization):
    """F = eps (DDPM, arXiv 2006.11239, equation 14). Undefined where alpha = 0."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return torch.zeros_like(t), torch.ones_like(t)


class V(Parameterization):
    """F = alpha eps - sigma x (progressive distillation, arXiv 2202.00512, appendix D)."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        alpha, sigma = schedule.alpha_sigma(t)
        return -sigma, alpha


class Velocity(Parameterization):
    """F = alpha' x + sigma' eps, the velocity dx_t/dt (flow matching, arXiv 2210.02747; rectified: eps - x)."""

    def pair(self, schedule: Schedule, t: Time) -> tuple[Time, Time]:
        return schedule.derivative(t)
