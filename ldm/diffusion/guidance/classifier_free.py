"""Classifier-free guidance (Ho and Salimans 2022, equation 6): away from the same network without its condition.

    x = x_null + scale (x_c - x_null),   with the answers x_c given the condition and x_null without one.

Since eps and v are affine functions of x at fixed x_t, the same formula holds for them. Scale 1 is the conditional model
without guidance, 0 the unconditional one. Both answers are computed in one batch.

Sources:
    Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv 2207.12598
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Time


class ClassifierFree(Guidance):
    """Guidance away from the answer without a condition.

    Arguments:
        denoiser: the denoiser that is guided; the prior gives it.
        scale: 1 is the conditional model without guidance, 0 the unconditional one; more follows the condition more closely.
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
