"""Heun's method with churn (EDM, arXiv 2206.00364, algorithm 2), for any schedule.

In y = x_t / alpha and r = sigma / alpha the probability-flow ODE is dy/dr = eps. A step goes by Euler to r_s, which is
DDIM, and takes the mean of the slopes at both ends: x_s += alpha_s (r_s - r_t) (eps_s - eps_t) / 2. Where alpha_t = 0,
r_t is infinite and Euler's step stays.

Churn first raises the noise from r to (1 + gamma) r, gamma = min(s_churn / steps, sqrt(2) - 1), by fresh noise of
deviation s_noise, where s_min <= r <= s_max. No noise is added beyond the schedule's t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class Heun(Sampler):
    order = 2

    def __init__(
        self,
        s_churn: NonNegativeFloat = 0.0,
        s_min: NonNegativeFloat = 0.0,
        s_max: PositiveFloat = math.inf,
        s_noise: PositiveFloat = 1.0,
    ):
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise
        self.stochastic = s_churn > 0

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """gamma."""
        return min(self.s_churn / max(len(times) - 1, 1), math.sqrt(2) - 1)

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        if self.stochastic:
            x_t, t = self._churned(denoiser, x_t, t, noise, memory)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha_t, x) * x) / along(sigma_t, x)
        x_s = along(alpha_s, x) * x + along(sigma_s, x) * eps
        eps_s = (x_s - along(alpha_s, x) * denoiser(x_s, s, c)) / along(sigma_s, x)
        length = torch.where(alpha_t > 0, sigma_s - sigma_t * alpha_s / alpha_t, 0)
        return x_s + along(length / 2, x) * (eps_s - eps), memory

    def _churned(
        self, denoiser: Denoiser, x_t: Latent, t: Time, noise: Callable[[], Latent], gamma: float
    ) -> tuple[Latent, Time]:
        """x and t with more noise."""
        schedule, log_snr = denoiser.schedule, denoiser.schedule.log_snr(t)
        r = torch.exp(-log_snr / 2)
        more = torch.where((r >= self.s_min) & (r <= self.s_max), 2 * math.log1p(gamma), 0)
        least = schedule.log_snr(torch.ones_like(t))
        raised = torch.where(more > 0, schedule.time(torch.maximum(log_snr - more, least)), t)
        (alpha_t, sigma_t), (alpha, sigma) = schedule.alpha_sigma(t), schedule.alpha_sigma(raised)
        ratio = torch.where(raised > t, alpha / alpha_t, 1)
        std = self.s_noise * (sigma**2 - ratio**2 * sigma_t**2).clamp(min=0).sqrt()
        return along(ratio, x_t) * x_t + along(std, x_t) * noise(), raised
