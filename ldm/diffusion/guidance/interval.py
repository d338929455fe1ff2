"""Guidance in an interval of noise levels only (arXiv 2404.07724, section 3), low <= sigma / alpha <= high.

Outside, at high noise where guidance takes variety away and at low noise where it does nothing, the plain denoiser
answers alone: one row per image and not two. Which steps of a sampler lie outside is known on the host, where its times
come from (`Denoiser.within`): no step waits for a device, and one that crosses a border asks for both and chooses row
by row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Time


class Interval(Guidance):
    """
    Arguments:
        denoiser: what is guided; the prior gives it.
        guidance: waits for the denoiser, as those of conf/diffusion/guidance.
        low, high: of sigma / alpha, where latents have unit variance.
    """

    neutral: ClassVar = {"low": 0.0, "high": math.inf}

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Callable[[Denoiser], Guidance],
        low: NonNegativeFloat = 0.0,
        high: NonNegativeFloat = math.inf,
    ):
        super().__init__(guidance(denoiser))
        self.plain = denoiser
        # Once, before any step: what the interval is in times, as numbers of the host.
        levels = torch.tensor([low, high], dtype=torch.float64)
        self.first, self.last = copy.deepcopy(self.schedule).cpu().time(-2 * levels.log()).tolist()

    def within(self, t: float, s: float) -> Denoiser:
        """The guidance alone, the plain denoiser alone, or both where a border lies between t and s. Noise that a step
        adds before it begins (heun's churn) does not count."""
        low, high = min(t, s), max(t, s)
        if self.first <= low and high <= self.last:
            return self.around.within(t, s)
        if high < self.first or low > self.last:
            return self.plain.within(t, s)
        return self

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        guided, plain = self.around.pair(x_t, t, c)
        inside = along(((t >= self.first) & (t <= self.last)).to(x_t.dtype), x_t) > 0
        return torch.where(inside, guided, plain), plain
