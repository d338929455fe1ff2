"""Activation normalisation: a scale and a bias for each channel, which begin so that the first batch leaves with mean 0 and
variance 1 (Kingma and Dhariwal 2018, section 3.1).

    y = (x + bias) exp(log_scale),        log|det| = h w sum(log_scale)

It takes the place of batch normalisation (Dinh et al. 2016, section 3.7), under which the density of an image would depend on
the other images of its batch, and sampling on averages of training.

Sources:
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.bijection.base import Bijection, Map
from ldm.types import Context

_LEAST = 1e-3  # the least deviation that is divided by: a channel that hardly varies in the first batch may vary later


class ActNorm(Bijection):
    """A scale and a bias for each channel, from the first batch; before it, the identity.

    Arguments:
        channels: of the map.
    """

    def __init__(self, channels: PositiveInt):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def _log_det(self, x: Map) -> Float[Tensor, " b"]:
        return (x.shape[2] * x.shape[3] * self.log_scale.sum()).expand(x.shape[0])

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return (x + self.bias) * self.log_scale.exp(), self._log_det(x)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return y * (-self.log_scale).exp() - self.bias, -self._log_det(y)

    @torch.no_grad()
    def begin(self, x: Map, c: Context) -> Map:
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        self.bias.copy_(-mean[0])
        self.log_scale.copy_(-deviation[0].clamp(min=_LEAST).log())
        return self(x, c)[0]
