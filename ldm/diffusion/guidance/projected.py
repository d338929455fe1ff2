"""Adaptive projected guidance (arXiv 2410.02416, algorithm 1): of the update u = guided - plain, the part along the
plain answer makes images oversaturated and the part at right angles to it makes them better.

x = plain + f (u - (1 - eta) u_along), where u_along = (u . plain / plain . plain) plain and f = min(1, norm / |u|),
over each image. The paper's threshold is on u / (scale - 1). Its momentum is left out: a mean over steps is a state,
and a denoiser has none.
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
    """
    Arguments:
        denoiser: what is guided; the prior gives it.
        guidance: whose update is projected; waits for the denoiser.
        eta: the share of the part along the plain answer that is kept; 1 keeps all.
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
        # Beginning from `guided`, so that with nothing to change it is left as it is, to the last bit.
        return guided + along(shrink - 1, u) * u - along((1 - self.eta) * shrink * part, u) * plain, plain
