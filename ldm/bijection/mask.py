"""Masks: which numbers of a map a coupling layer keeps, and which it moves given those (Dinh et al. 2016, section 3.4).

Channels: one half of the channels is kept. Checkerboard: the pixels of one colour of a chessboard are kept. In each colour a
pixel's neighbours are of the other one, so that a network sees all around what it moves; on a map of one pixel there is only
one colour, and on a map of one channel only the checkerboard divides anything.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool
from torch import Tensor

from ldm.bijection.base import Map


class Mask(ABC):
    """A division of maps into what is kept and what is moved.

    Attributes:
        inputs: channels of what a network is shown of the kept numbers.
        outputs: channels of what is moved.
    """

    inputs: int
    outputs: int

    @abstractmethod
    def shown(self, x: Map) -> Map:
        """What a network is shown of x, (b, inputs, h, w), which depends on the kept numbers alone."""

    @abstractmethod
    def moved(self, x: Map) -> Map:
        """What is transformed, (b, outputs, h, w); it may hold kept numbers, too, which `put` then ignores."""

    @abstractmethod
    def put(self, x: Map, y: Map) -> Map:
        """x with y (b, outputs, h, w) in the place of the moved numbers."""


class Halves(Mask):
    """The first half of the channels is kept and the second one moved or, flipped, the other way round.

    Arguments:
        channels: of the map, 2 at least; of an odd number the first half is the smaller one.
        flip: whether the first half is moved.
    """

    def __init__(self, channels: int, flip: bool = False):
        if channels < 2:
            raise ValueError(
                f"a coupling of channels keeps some and moves others, and here is {channels}: take prior=realnvp, whose "
                "checkerboards divide pixels, or latents of more channels or even sides"
            )
        self.flip = flip
        self.sizes = (channels // 2, channels - channels // 2)
        self.inputs, self.outputs = reversed(self.sizes) if flip else self.sizes

    def _halves(self, x: Map) -> tuple[Map, Map]:
        """What is kept, and what is moved."""
        first, second = x.split(self.sizes, dim=1)
        return (second, first) if self.flip else (first, second)

    def shown(self, x: Map) -> Map:
        return self._halves(x)[0]

    def moved(self, x: Map) -> Map:
        return self._halves(x)[1]

    def put(self, x: Map, y: Map) -> Map:
        kept = self.shown(x)
        return torch.cat([y, kept] if self.flip else [kept, y], 1)


class Checkerboard(Mask):
    """The pixels whose row and column have an even sum are kept and the others moved or, flipped, the other way round. A network
    is shown which ones they are as one more channel.

    Arguments:
        channels: of the map.
        flip: whether the pixels with an even sum are moved.
    """

    def __init__(self, channels: int, flip: bool = False):
        self.flip, self.inputs, self.outputs = flip, channels + 1, channels

    def _kept(self, x: Map) -> Bool[Tensor, "1 1 h w"]:
        row, column = (torch.arange(side, device=x.device) for side in x.shape[2:])
        return (((row[:, None] + column) % 2 == 1) == self.flip)[None, None]

    def shown(self, x: Map) -> Map:
        kept = self._kept(x).to(x.dtype)
        return torch.cat([x * kept, kept.expand(x.shape[0], 1, *x.shape[2:])], 1)

    def moved(self, x: Map) -> Map:
        return x

    def put(self, x: Map, y: Map) -> Map:
        return torch.where(self._kept(x), x, y)
