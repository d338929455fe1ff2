"""Rescaled guidance (Lin et al. 2023, equations 14 to 16).

Guidance makes images too bright and too rich in contrast. So each image is scaled towards the standard deviation that the
plain answer has, by a share phi: x = guided (phi std(plain) / std(guided) + 1 - phi).

Sources:
    Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed (2023), arXiv 2305.08891
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.guidance.base import Guidance
from ldm.types import Context, Latent, Probability, Time


class Rescaled(Guidance):
    """Another guidance with its answer scaled towards the standard deviation of the plain answer.

    Arguments:
        denoiser: the denoiser that is guided; the prior gives it.
        guidance: the other guidance, called with the denoiser.
        phi: the share of the rescaling; 0 changes nothing.
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
