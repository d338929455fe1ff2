"""Normalisation of feature maps, computed in float32 whatever the precision around it.

Group normalisation (arXiv 1803.08494, eq. 1-7): y = (x - mean_g) / sqrt(var_g + eps) * weight + bias, moments over a
group of channels and all pixels. Root-mean-square normalisation (arXiv 1910.07467, eq. 4) over the channels of each
pixel: y = x / sqrt(mean_c x^2 + eps) * weight. The second mixes no pixels and subtracts nothing, so the absolute level
of a flat picture survives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

Norm: TypeAlias = Callable[[int], nn.Module]
"""What makes a normalisation for a number of channels: `Group`, `Rms`, `Unnormalised`, or a partial of one."""


class Group(nn.Module):
    """Group normalisation of (b, c, ...).

    Arguments:
        groups: the greatest common divisor of it and the channels is taken. Left open, it is 32, or half the channels
            where that would leave one channel a group: moments of a lone channel erase whatever was added to all its
            pixels, as a residual block adds its embedding.
        channels: of the map.
        eps: added to the variance.
    """

    def __init__(self, channels: PositiveInt, groups: PositiveInt | None = None, eps: PositiveFloat = 1e-5):
        super().__init__()
        count = math.gcd(groups or 32, channels)
        self.groups = max(1, count // 2) if groups is None and count == channels else count
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        y = F.group_norm(x.float(), self.groups, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


class Rms(nn.Module):
    """Root-mean-square normalisation over the channels of each pixel of (b, c, ...).

    Arguments:
        channels: of the map.
        eps: added to the mean square.
    """

    def __init__(self, channels: PositiveInt, eps: PositiveFloat = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        y = x.float()
        scale = torch.rsqrt(y.square().mean(1, keepdim=True) + self.eps)
        weight = self.weight.float().view(-1, *[1] * (x.ndim - 2))
        return (y * scale * weight).to(x.dtype)


class Unnormalised(nn.Module):
    """No normalisation."""

    def __init__(self, channels: PositiveInt):
        super().__init__()

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        return x
