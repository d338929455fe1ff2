"""Classifier-free guidance (arXiv 2207.12598, equation 6): away from the same network without its condition.

x = x_null + scale (x_c - x_null); linear in x, hence the same in eps or v at the same x_t. scale 1 is the plain
conditional model, 0 the unconditional one; the two are asked in one batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Time


class ClassifierFree(Guidance):
    """
    Arguments:
        denoiser: what is guided; the prior gives it.
        scale: 1 is the plain conditional model, 0 the unconditional one, more obeys the condition more.
    """

    neutral: ClassVar = {"scale": 1.0}

    def __init__(self, denoiser: Denoiser, scale: NonNegativeFloat = 1.0):
        super().__init__(denoiser)
        self.scale = scale

    @property
    def unconditional(self) -> bool:
        return self.scale != 1

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        if self.scale in (0, 1) or c.empty is None:
            x = self.around(x_t, t, c.null() if self.scale == 0 else c)
            return x, x
        both = self.around(torch.cat([x_t, x_t]), torch.cat([t, t]), Context.cat([c, c.null()]))
        plain, null = both.chunk(2)
        return null + self.scale * (plain - null), plain
