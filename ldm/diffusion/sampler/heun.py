"""Heun's method with churn (EDM, arXiv 2206.00364, algorithm 2), for any schedule.

In y = x_t / alpha and r = sigma / alpha the probability-flow ODE is dy/dr = eps. EDM's step goes by Euler to r_s, which is
DDIM, and takes the mean of the slopes at both ends. Said of D = E[x | x_.] in place of eps, with D_s the answer at the
end that Euler's step found, this is

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) ((1 - w) D_t + w D_s),   w = r_t / (2 r_s).

The exact x_s has an average of D along the way in that place, of a weight w between 1/2 and 1: 1/2 at high noise, where D
is linear in 1 / r, and r_t / (r_t + r_s) at low noise, where it is linear in r^2. All agree in short steps. In a step
that more than halves r, EDM's goes beyond D_s, without bound as alpha_t -> 0, so w is at most `limit`; from alpha_t = 0 it
is 1. With limit 1 a step between two answers never leaves them, and is EDM's wherever r at most halves; with
limit = inf it is EDM's everywhere.

Churn first raises the noise from r to (1 + gamma) r, gamma = min(s_churn / steps, sqrt(2) - 1), by fresh noise of
deviation s_noise, where s_min <= r <= s_max. No noise is added beyond the schedule's t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.exponential import Step
from ldm.types import Context, Latent, Time


class Heun(Sampler):
    """
    Arguments:
        s_churn: how much noise is added over all steps; 0 is the ODE.
        s_min, s_max: of sigma / alpha, between which noise is added.
        s_noise: deviation of the noise that is added, in its place.
        limit: of the weight w of the answer at the step's end; inf is EDM's.
    """

    order = 2

    def __init__(
        self,
        s_churn: NonNegativeFloat = 0.0,
        s_min: NonNegativeFloat = 0.0,
        s_max: PositiveFloat = math.inf,
        s_noise: PositiveFloat = 1.0,
        limit: Annotated[float, Field(ge=1)] = 1.0,
    ):
        self.s_churn, self.s_min, self.s_max, self.s_noise, self.limit = s_churn, s_min, s_max, s_noise, limit
        self.stochastic = s_churn > 0

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """gamma."""
        return min(self.s_churn / max(len(times) - 1, 1), math.sqrt(2) - 1)

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        if self.stochastic:
            x_t, t = self._churned(denoiser, x_t, t, noise, memory)
        step = Step.between(denoiser.schedule, t, s)
        x = denoiser(x_t, t, c)
        euler = step.first(x_t, x)
        rise = denoiser(euler, s, c) - x
        weight = torch.where(step.h.isinf(), 1, (step.h.exp() / 2).clamp(max=self.limit))
        return euler + along(step.psi_1 * weight.to(x.dtype), x) * rise, memory

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
