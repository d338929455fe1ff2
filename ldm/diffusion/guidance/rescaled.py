"""Rescaled guidance (arXiv 2305.08891, equations 14 to 16): guidance makes images too bright and contrasty, so each
gets back the deviation of the plain answer, to a part phi: x = guided (phi std(plain) / std(guided) + 1 - phi)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Probability, Time


class Rescaled(Guidance):
    """
    Arguments:
        denoiser: what is guided; the prior gives it.
        guidance: whose answer is rescaled; waits for the denoiser.
        phi: how much of the deviation is given back; 0 changes nothing.
    """

    neutral: ClassVar = {"phi": 0.0}

    def __init__(self, denoiser: Denoiser, guidance: Callable[[Denoiser], Guidance], phi: Probability = 0.7):
        super().__init__(guidance(denoiser))
        self.phi = phi

    def pair(self, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Latent]:
        guided, plain = self.around.pair(x_t, t, c)
        before, after = plain.flatten(1).std(1), guided.flatten(1).std(1)
        ratio = torch.where(after > 0, before / after, 1)
        return along(1 + self.phi * (ratio - 1), guided) * guided, plain
