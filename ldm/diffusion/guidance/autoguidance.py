"""Autoguidance (arXiv 2406.02507, section 3): away from a worse version of the same model, smaller or less trained.

x = x_guide + scale (x_c - x_guide). The guide sees the condition, too, so unlike classifier-free guidance it says
nothing against the variety of what fits the condition. A guide is any denoiser on the same schedule; a network whose
self-attention is replaced by the identity is one, and makes this perturbed-attention guidance (arXiv 2403.17377).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Time


class Autoguidance(Guidance):
    neutral: ClassVar = {"scale": 1.0}

    def __init__(self, denoiser: Denoiser, guide: Denoiser, scale: NonNegativeFloat = 1.0):
        super().__init__(denoiser)
        self.guide, self.scale = guide, scale

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        plain = self.around(x_t, t, c)
        if self.scale == 1:
            return plain, plain
        worse = self.guide(x_t, t, c)
        return worse + self.scale * (plain - worse), plain
