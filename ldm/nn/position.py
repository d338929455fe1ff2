"""Where a token stands on the canvas: what attention, which sees a set, is told of it.

`SinCos` adds fixed sines and cosines to the tokens, half of the channels for the row and half for the column (arXiv
2010.11929, appendix D.4; the embedding of ldm.nn.embedding in each). `Rotary` turns pairs of each query's and key's
channels by angles proportional to the row, and others by the column (arXiv 2104.09864, eq. 34, along each axis), so that
their product depends on where the two stand relative to each other alone. `Nowhere` tells nothing: a transformer is then
equivariant to permutations of its tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.constructed import Constructed
from ldm.nn.embedding import frequencies, sinusoidal


class Places(Constructed, ABC):
    """The tokens of a canvas, row by row. At most one of the two is given; it is the same for all examples."""

    @abstractmethod
    def added(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n d"] | None:
        """What is added to the tokens."""

    @abstractmethod
    def rotation(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n e"] | None:
        """Cosines and sines of the angles by which `rotated` turns a head's e channels."""


Position: TypeAlias = Callable[[int, int], Places]
"""What makes places for (width of the tokens, heads): one of the classes below, or a partial."""


class SinCos(Places):
    """
    Arguments:
        width, heads: of the tokens and of attention; the transformer says them.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt):
        self.width = _fourfold(width, "tokens of width")

    def added(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n d"]:
        axes = _rows_and_columns(height, width, device)
        return torch.cat([sinusoidal(axis, self.width // 2) for axis in axes], dim=1)[None]

    def rotation(self, height: int, width: int, device: torch.device) -> None:
        return None


class Rotary(Places):
    """
    Arguments:
        base: the slowest pair turns by about 1 / base a pixel; a canvas has fewer places than a text (arXiv 2403.13298).
        width, heads: of the tokens and of attention; the transformer says them.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt, base: PositiveFloat = 100.0):
        self.width, self.base = _fourfold(width // heads, "heads of width"), base

    def added(self, height: int, width: int, device: torch.device) -> None:
        return None

    def rotation(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n e"]:
        speeds = frequencies(self.width // 4, self.base, device)
        angles = torch.cat([axis[:, None] * speeds for axis in _rows_and_columns(height, width, device)], dim=1)
        return torch.cat([angles.cos(), angles.sin()], dim=1)[None]


class Nowhere(Places):
    """
    Arguments:
        width, heads: of the tokens and of attention; the transformer says them.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt):
        pass

    def added(self, height: int, width: int, device: torch.device) -> None:
        return None

    def rotation(self, height: int, width: int, device: torch.device) -> None:
        return None


def rotated(x: Float[Tensor, "b h n e"], rotation: Float[Tensor, "#b n e"]) -> Float[Tensor, "b h n e"]:
    """Channels i and e / 2 + i of each token turned by its angle i, in float32."""
    cos, sin = rotation[:, None].chunk(2, dim=-1)
    u, v = x.float().chunk(2, dim=-1)
    return torch.cat([u * cos - v * sin, u * sin + v * cos], dim=-1).to(x.dtype)


def _rows_and_columns(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    place = torch.arange(height * width, device=device)
    return (place // width).float(), (place % width).float()


def _fourfold(width: int, what: str) -> int:
    if width % 4:
        raise ValueError(
            f"a place has a row and a column, each of cosines and sines: {what} {width} cannot hold them; "
            f"take a multiple of 4, or position=none"
        )
    return width
