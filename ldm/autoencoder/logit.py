"""Pixels of 8 bits as logits: dequantised, and then without an end at black and at white.

A pixel of level l is drawn from the width of its level, p = a + (1 - 2 a) (l + u) / levels with u uniform in [0, 1), and the
latent is

    z = log p / (1 - p),        log|dz/dx'| = log((1 - 2 a) / (levels w)) - log p - log(1 - p),

with x' the same draw in [-1, 1] and w the width of a level there (Dinh et al. 2016, section 4.1; Papamakarios et al. 2017 with
a = 1e-6 for digits). Near the ends a level becomes as wide as all that lies between them: images that are black or white almost
everywhere, as written digits, then have no narrow peaks for a density to find, and samples stay within the range. For
photographs it changes little. The rest is as in ldm.autoencoder.dequantised.

What it costs: at the ends the noise is an exponential law, which a flow of affine layers can only cover by a normal one.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
    Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017), arXiv 1705.07057
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from ldm.autoencoder.bottleneck import Bottleneck, Coded, Posterior
from ldm.autoencoder.dequantised import width_of
from ldm.types import Image, Latent

_POINTS = 1000  # of each level, over which its moments are taken

Margin = Annotated[float, Field(gt=0, lt=0.5)]


@dataclass(frozen=True)
class LogitUniform(Posterior):
    """q(z|x) of logits of p, uniform in [low, high), by its moments `mean` and `std`; z = (logit - shift) / scale."""

    low: Latent
    high: Latent
    shift: Tensor
    scale: Tensor

    def sample(self, noise: Latent) -> Latent:
        """The quantile of the law where `noise` is a quantile of the standard normal."""
        p = self.low + (self.high - self.low) * torch.special.ndtr(noise)
        return (torch.logit(p) - self.shift) / self.scale

    def kl(self) -> Float[Tensor, " b"]:
        entropy = (self.high - self.low).log() + _mean_log_slope(self.low, self.high) - self.scale.log()
        second = self.mean.square() + self.std.square()
        return (0.5 * (second + math.log(2 * math.pi)) - entropy).flatten(1).sum(1)

    def whitened(self, mean: Tensor, std: Tensor) -> LogitUniform:
        moments = {"mean": (self.mean - mean) / std, "std": self.std / std}
        return replace(self, **moments, shift=self.shift + mean * self.scale, scale=self.scale * std)


def _mean_log_slope(low: Tensor, high: Tensor) -> Tensor:
    """The mean of log dz/dp = -log p - log(1 - p) over [low, high), in float64 within."""

    def integral(p: Tensor) -> Tensor:
        return 2 * p - torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)

    low, high = low.double(), high.double()
    return ((integral(high) - integral(low)) / (high - low)).float()


class LogitDequantised(Bottleneck):
    """The latent is the logit of the encoder's output, drawn from the width of its level.

    Arguments:
        levels: how many values a pixel has in [-1, 1].
        margin: a, which keeps logits finite: their largest is about -log a.
        channels: of the latent; None for as many as the image has.
    """

    means: Float[Tensor, " levels"]
    stds: Float[Tensor, " levels"]

    def __init__(self, levels: PositiveInt = 256, margin: Margin = 1e-6, channels: PositiveInt | None = None):
        super().__init__()
        if levels < 2:
            raise ValueError(f"a pixel of {levels} level says nothing: take levels=256, as images of 8 bits have")
        self.levels, self.margin, self.channels = levels, margin, channels
        u = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
        z = torch.logit(self._share(torch.arange(levels, dtype=torch.float64)[:, None] + u))
        self.register_buffer("means", z.mean(1).float())
        self.register_buffer("stds", z.std(1, correction=0).float())

    def _share(self, place: Tensor) -> Tensor:
        """p of places from 0 to `levels`."""
        return self.margin + (1 - 2 * self.margin) * place / self.levels

    def _of(self, level: Tensor) -> LogitUniform:
        """The law of levels, integers of the latent's shape."""
        low, high = self._share(level.float()), self._share(level.float() + 1)
        return LogitUniform(self.means[level], self.stds[level], low, high, low.new_zeros(()), low.new_ones(()))

    def posterior(self, h: Latent) -> LogitUniform:
        return self._of(((h.float() + 1) / width_of(self.levels)).round().long().clamp(0, self.levels - 1))

    def kept(self, mean: Latent, std: Latent) -> LogitUniform:
        between = (self.means[1:] + self.means[:-1]) / 2  # a cache may have rounded the means to float16
        return self._of(torch.bucketize(mean.float(), between))

    def forward(self, h: Latent, noise: Latent) -> Coded:
        posterior = self.posterior(h)
        return Coded(posterior.sample(noise), posterior)

    def restore(self, z: Latent) -> Image:
        place = (z.sigmoid() - self.margin) / (1 - 2 * self.margin) * self.levels
        return (place - 0.5) * width_of(self.levels) - 1

    def raw(self, x: Image) -> tuple[Latent, Float[Tensor, " b"]]:
        p = self._share((x + 1) / width_of(self.levels) + 0.5)
        slope = math.log((1 - 2 * self.margin) / (self.levels * width_of(self.levels))) - p.log() - torch.log1p(-p)
        return torch.logit(p), slope.flatten(1).sum(1)
