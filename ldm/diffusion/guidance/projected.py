"""Adaptive projected guidance (Sadat et al. 2024, algorithm 1).

Of the update u = guided - plain, the part parallel to the plain answer oversaturates images, and the part orthogonal to it
improves them. So the parallel part is reduced, and the update is limited in length, for each image:

    x = plain + f (u - (1 - eta) u_parallel),   u_parallel = (u . plain / plain . plain) plain,   f = min(1, norm / |u|).

The paper limits the length of u / (scale - 1) instead. It also has a momentum, a mean of updates over steps. It is left
out here, because it is a state, and denoisers have none.

Sources:
    Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models (2024),
        arXiv 2410.02416
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import PositiveFloat

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Probability, Time


class Projected(Guidance):
    """Another guidance with the part of its update that is parallel to the plain answer reduced.

    Arguments:
        denoiser: the denoiser that is guided; the prior gives it.
        guidance: the other guidance, called with the denoiser.
        eta: the share of the parallel part that is kept; 1 keeps all.
        norm: the greatest length of an image's update.
    """

    neutral: ClassVar = {"eta": 1.0, "norm": math.inf}

    def __init__(
        self,
        denoiser: Denoiser,
        guidance: Callable[[Denoiser], Guidance],
        eta: Probability = 0.0,
        norm: PositiveFloat = math.inf,
    ):
        super().__init__(guidance(denoiser))
        self.eta, self.norm = eta, norm

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        guided, plain = self.around.pair(x_t, t, c)
        u = guided - plain
        flat, axis = u.flatten(1), plain.flatten(1)
        shrink = (self.norm / flat.norm(dim=1)).clamp(max=1)
        square = axis.square().sum(1)
        part = torch.where(square > 0, (flat * axis).sum(1) / square, 0)
        # Written as a change of `guided`, so that with nothing to change the result equals it to the last bit.
        return guided + along(shrink - 1, u) * u - along((1 - self.eta) * shrink * part, u) * plain, plain
