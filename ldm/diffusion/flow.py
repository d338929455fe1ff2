"""The probability-flow ODE (Song et al. 2020, equation 13) in coordinates that are regular for every schedule.

Let phi be the angle with tan(phi) = sigma / alpha, and y = x_t / sqrt(alpha^2 + sigma^2) = cos(phi) x + sin(phi) eps. In
these coordinates all schedules follow the same ODE and differ only in the speed at which they run through it:

    dy/dphi = cos(phi) eps - sin(phi) x = (cos(phi) y - E[x | x_t]) / sin(phi).

The right side is finite where alpha = 0 (phi = pi / 2), and it needs no derivative of the schedule.

Sources:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time


def angle(schedule: Schedule, t: Time) -> Time:
    """phi = atan(sigma / alpha) at times t, in radians, (b,): 0 at pure data, pi / 2 at pure noise."""
    alpha, sigma = schedule.alpha_sigma(t)
    return torch.atan2(sigma, alpha)


def length(schedule: Schedule, t: Time) -> Time:
    """sqrt(alpha^2 + sigma^2) at times t, (b,): the factor between y and x_t."""
    alpha, sigma = schedule.alpha_sigma(t)
    return torch.hypot(alpha, sigma)


def velocity(denoiser: Denoiser, y: Latent, phi: Time, c: Context) -> Tensor:
    """dy/dphi of the probability-flow ODE, (b, c, h, w), at y (b, c, h, w) and angles phi (b,), given the context c."""
    t = denoiser.schedule.time(-2 * phi.tan().abs().log())
    x = denoiser(along(length(denoiser.schedule, t), y) * y, t, c)
    return (along(phi.cos(), y) * y - x) / along(phi.sin(), y)
