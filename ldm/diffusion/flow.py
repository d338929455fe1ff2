"""The probability-flow ODE (arXiv 2011.13456, equation 13) in coordinates that no schedule makes singular.

With tan(phi) = sigma / alpha and y = x_t / sqrt(alpha^2 + sigma^2) = cos(phi) x + sin(phi) eps, every schedule is the
same curve, run through at another speed:

    dy/dphi = cos(phi) eps - sin(phi) x = (cos(phi) y - E[x | x_t]) / sin(phi),

which is finite where alpha = 0 (phi = pi / 2) and needs no derivative of the schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time


def angle(schedule: Schedule, t: Time) -> Time:
    alpha, sigma = schedule.alpha_sigma(t)
    return torch.atan2(sigma, alpha)


def length(schedule: Schedule, t: Time) -> Time:
    """sqrt(alpha^2 + sigma^2), by which x_t is y."""
    alpha, sigma = schedule.alpha_sigma(t)
    return torch.hypot(alpha, sigma)


def velocity(denoiser: Denoiser, y: Latent, phi: Time, c: Context) -> Tensor:
    """dy/dphi."""
    t = denoiser.schedule.time(-2 * phi.tan().abs().log())
    x = denoiser(along(length(denoiser.schedule, t), y) * y, t, c)
    return (along(phi.cos(), y) * y - x) / along(phi.sin(), y)
