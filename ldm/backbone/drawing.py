"""Smooth maps made of a vector, so that a convolutional network can use what the vector says of places.

Convolutions find out where a pixel lies only from the padding at the border, and modulation by scale and shift is the same
at every pixel. So a U-Net learns slowly what words like "left" and "top" in a caption mean. Here a vector is mapped linearly
to the coefficients of smooth maps in the lowest frequencies of the discrete cosine transform (Ahmed et al., Discrete Cosine
Transform (1974), doi 10.1109/T-C.1974.223784),

    map_k(y, x) = sum_{i, j < basis} C_kij cos(pi i y) cos(pi j x),    y, x in (0, 1) over the canvas,

and the maps are concatenated to the network's input. The same coefficients make maps of any size. (What this saved is in
experiments/LOG.md, 2026-11-21.)
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn


class Drawing(nn.Module):
    """Vectors (b, width) to maps (b, channels, h, w).

    Arguments:
        width: of the vectors.
        channels: number of maps.
        basis: number of frequencies along each axis.
    """

    def __init__(self, width: PositiveInt, channels: PositiveInt, basis: PositiveInt = 5):
        super().__init__()
        self.channels, self.basis = channels, basis
        self.coefficients = nn.Linear(width, channels * basis**2)

    def forward(self, v: Float[Tensor, "b width"], height: int, width: int) -> Float[Tensor, "b k {height} {width}"]:
        """The maps of vectors v (b, width), of `height` x `width` pixels."""
        coefficients = rearrange(self.coefficients(v), "b (k i j) -> b k i j", i=self.basis, j=self.basis)
        rows, columns = (_cosines(self.basis, n, coefficients) for n in (height, width))
        return torch.einsum("bkij,iy,jx->bkyx", coefficients, rows, columns)


def _cosines(count: int, size: int, like: Tensor) -> Float[Tensor, "count size"]:
    places = (torch.arange(size, device=like.device) + 0.5) / size
    return torch.cos(math.pi * torch.arange(count, device=like.device)[:, None] * places).to(like.dtype)
