"""Normalisation of feature maps. All of it is computed in float32, whatever the precision of the network.

Group normalisation (Wu and He 2018, equations 1 to 7): y = (x - mean_g) / sqrt(var_g + eps) * weight + bias, moments over a
group of channels and all pixels. Root-mean-square normalisation (Zhang and Sennrich 2019, equation 4) over the channels of
each pixel: y = x / sqrt(mean_c x^2 + eps) * weight. The second one does not mix pixels and does not subtract a mean, so it
keeps the colour of an image of one colour, which group normalisation removes.

Sources:
    Wu and He, Group Normalization (2018), arXiv 1803.08494
    Zhang and Sennrich, Root Mean Square Layer Normalization (2019), arXiv 1910.07467
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
"""Makes a normalisation, given the number of channels: `Group`, `Rms`, `Unnormalised`, or a partial of one."""


class Group(nn.Module):
    """Group normalisation of maps (b, c, ...).

    Arguments:
        channels: number of channels of the map.
        groups: number of groups; the greatest common divisor of it and the number of channels is used. By default it is
            32, or half the channels where 32 would make groups of one channel each. With such groups, subtracting the
            mean would remove the embedding that a residual block adds to all pixels of a channel.
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
        """A map (b, c, ...), normalised, in its own dtype."""
        y = F.group_norm(x.float(), self.groups, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


class Rms(nn.Module):
    """Root-mean-square normalisation over the channels of each pixel of maps (b, c, ...).

    Arguments:
        channels: number of channels of the map.
        eps: added to the mean square.
    """

    def __init__(self, channels: PositiveInt, eps: PositiveFloat = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        """A map (b, c, ...), normalised, in its own dtype."""
        y = x.float()
        scale = torch.rsqrt(y.square().mean(1, keepdim=True) + self.eps)
        weight = self.weight.float().view(-1, *[1] * (x.ndim - 2))
        return (y * scale * weight).to(x.dtype)


class Unnormalised(nn.Module):
    """No normalisation: the identity."""

    def __init__(self, channels: PositiveInt):
        super().__init__()

    def forward(self, x: Float[Tensor, "b c *hw"]) -> Float[Tensor, "b c *hw"]:
        """x itself."""
        return x
