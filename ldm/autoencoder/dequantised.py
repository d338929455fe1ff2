"""Dequantisation: pixels of 8 bits as numbers that have a density.

A density fitted to numbers that lie on 256 values has no maximum: peaks on the values, ever narrower, have any likelihood. So
each pixel is drawn from the width of its level (Uria et al. 2013, section 5.1),

    z = x + w (u - 1/2),   u ~ U(0, 1),   w = 2 / (levels - 1),

the distance of two levels of images in [-1, 1]. Then the density bounds the probability of the image itself (Theis et al. 2015,
equation 3; Jensen's inequality), d numbers long,

    log P(x) >= E_u log p(z) + d log w,

which ldm.metric.bits_per_dim measures. Rounding z to the nearest level gives x back.

Sources:
    Uria et al., RNADE: The Real-Valued Neural Autoregressive Density-Estimator (2013), arXiv 1306.0186
    Theis et al., A Note on the Evaluation of Generative Models (2015), arXiv 1511.01844
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.autoencoder.bottleneck import Bottleneck, Coded, Posterior
from ldm.types import Latent


@dataclass(frozen=True)
class Uniform(Posterior):
    """q(z|x) uniform about the mean, of deviation std and so of width sqrt(12) std, independent in every number."""

    def sample(self, noise: Latent) -> Latent:
        """The quantile of the uniform law where `noise` is a quantile of the standard normal."""
        return self.mean + math.sqrt(12) * self.std * (torch.special.ndtr(noise) - 0.5)

    def kl(self) -> Float[Tensor, " b"]:
        terms = self.mean.square() + self.std.square() + math.log(2 * math.pi / 12) - 2 * self.std.log()
        return 0.5 * terms.flatten(1).sum(1)


def width_of(levels: int) -> float:
    """w, the distance of two of so many levels of images in [-1, 1]."""
    return 2 / (levels - 1)


class Dequantised(Bottleneck):
    """The latent is the encoder's output, drawn from the width of its level.

    Arguments:
        levels: how many values a pixel has in [-1, 1].
        channels: of the latent; None for as many as the image has.
    """

    def __init__(self, levels: PositiveInt = 256, channels: PositiveInt | None = None):
        super().__init__()
        if levels < 2:
            raise ValueError(f"a pixel of {levels} level says nothing: take levels=256, as images of 8 bits have")
        self.levels, self.channels = levels, channels

    def posterior(self, h: Latent) -> Uniform:
        return Uniform(h, torch.full_like(h, width_of(self.levels) / math.sqrt(12)))

    def kept(self, mean: Latent, std: Latent) -> Uniform:
        width = width_of(self.levels)  # a cache may have rounded the levels to float16
        return self.posterior(((mean + 1) / width).round() * width - 1)

    def forward(self, h: Latent, noise: Latent) -> Coded:
        posterior = self.posterior(h)
        return Coded(posterior.sample(noise), posterior)

    def restore(self, z: Latent) -> Latent:
        return z
