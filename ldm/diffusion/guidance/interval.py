"""Guidance in an interval of noise levels only (Kynkäänniemi et al. 2024, section 3), low <= sigma / alpha <= high.

At higher noise levels guidance reduces variety, and at lower ones it has hardly an effect. There the plain denoiser is
evaluated alone, once for each image and not twice. Which steps of a sampler lie outside the interval is known on the host,
where the times of the grid are (`Denoiser.within`), so no step waits for the device. In a step that crosses an end of the
interval both are evaluated, and one is chosen for each image.

Sources:
    Kynkäänniemi et al., Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
        Diffusion Models (2024), arXiv 2404.07724
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
    """Another guidance within an interval of noise levels, and no guidance outside.

    Arguments:
        denoiser: the denoiser that is guided; the prior gives it.
        guidance: the other guidance, called with the denoiser.
        low, high: the lowest and the highest noise level sigma / alpha, for latents of unit variance.
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
        # The interval in times, as Python numbers, computed once before any step.
        levels = torch.tensor([low, high], dtype=torch.float64)
        self.first, self.last = copy.deepcopy(self.schedule).cpu().time(-2 * levels.log()).tolist()

    def within(self, t: float, s: float) -> Denoiser:
        """The guidance alone, the plain denoiser alone, or this one where an end of the interval lies between t and s. Noise
        that a step adds before it begins (churn of `heun`) is not considered."""
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
