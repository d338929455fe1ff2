"""Heun's method with churn (EDM, Karras et al. 2022, algorithm 2), for any schedule.

In the variables y = x_t / alpha and r = sigma / alpha the probability-flow ODE is dy/dr = eps. A step of EDM first goes to
r_s by Euler's method, which is DDIM, evaluates eps there, and then repeats the step with the mean of the two eps. Written
with D = E[x | x_.] in place of eps, D_t at the beginning of the step and D_s at the end that Euler's method found, this is

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) ((1 - w) D_t + w D_s),   w = r_t / (2 r_s).

The exact solution has an average of D along the step in the place of (1 - w) D_t + w D_s. It corresponds to a w between
1/2 and 1: w = 1/2 at high noise, where D is linear in 1 / r, and w = r_t / (r_t + r_s) at low noise, where D is linear in
r^2. In short steps all of these agree. In a step that more than halves r, w of EDM exceeds 1 and x_s is extrapolated
beyond D_s, without bound as alpha_t -> 0. Therefore w is at most `limit` here, and 1 for a step from alpha_t = 0. With
limit = 1 the average always lies between D_t and D_s, and the method is EDM's wherever a step at most halves r. With
limit = inf it is EDM's everywhere.

Churn (the same algorithm) raises the noise before a step from r to (1 + gamma) r, gamma = min(s_churn / steps,
sqrt(2) - 1), by new noise of standard deviation s_noise, where s_min <= r <= s_max. No noise is added beyond t = 1.

Sources:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
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
    """Heun's method: two evaluations a step, of second order.

    Arguments:
        s_churn: how much noise is added over all steps; 0 solves the ODE.
        s_min, s_max: the noise levels sigma / alpha between which noise is added.
        s_noise: standard deviation of the added noise, relative to what it should be.
        limit: the greatest weight w of the evaluation at the end of a step; inf is EDM's method.
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
        """The memory of all steps: gamma."""
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
        """x_t after churn, and the time at which it has that noise level."""
        schedule, log_snr = denoiser.schedule, denoiser.schedule.log_snr(t)
        r = torch.exp(-log_snr / 2)
        more = torch.where((r >= self.s_min) & (r <= self.s_max), 2 * math.log1p(gamma), 0)
        least = schedule.log_snr(torch.ones_like(t))
        raised = torch.where(more > 0, schedule.time(torch.maximum(log_snr - more, least)), t)
        (alpha_t, sigma_t), (alpha, sigma) = schedule.alpha_sigma(t), schedule.alpha_sigma(raised)
        ratio = torch.where(raised > t, alpha / alpha_t, 1)
        std = self.s_noise * (sigma**2 - ratio**2 * sigma_t**2).clamp(min=0).sqrt()
        return along(ratio, x_t) * x_t + along(std, x_t) * noise(), raised
