"""Classifier-free guidance (arXiv 2207.12598, equation 6): a denoiser around a denoiser.

x = x_null + scale (x_c - x_null); linear in x, hence the same in eps or v at the same x_t. scale 1 is the plain
conditional model, 0 the unconditional one; the two are asked in one batch.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser
from ldm.types import Context, Latent, Time


class ClassifierFree(Denoiser):
    def __init__(self, denoiser: Denoiser, scale: NonNegativeFloat = 1.0):
        super().__init__()
        self.denoiser, self.scale, self.schedule = denoiser, scale, denoiser.schedule

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        if self.scale == 1 or c.empty is None:
            return self.denoiser(x_t, t, c)
        if self.scale == 0:
            return self.denoiser(x_t, t, c.null())
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), Context.cat([c, c.null()]))
        with_c, without = both.chunk(2)
        return without + self.scale * (with_c - without)
