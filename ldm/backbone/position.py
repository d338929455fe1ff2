"""Position embeddings: how the places of tokens on the canvas enter attention, which by itself does not know their order.

`SinCos` adds fixed sines and cosines to the tokens, half of the channels for the row and half for the column
(Dosovitskiy et al. 2020, appendix D.4; the embedding of ldm.nn.embedding in each). `Rotary` turns pairs of each query's
and key's channels by angles proportional to the row, and others by the column (Su et al. 2021, equation 34, along each
axis), so that their product depends on the position of the two tokens relative to each other alone. With `Nowhere` there
is no position embedding, and a transformer is then equivariant to permutations of its tokens.

Sources:
    Dosovitskiy et al., An Image Is Worth 16x16 Words: Transformers for Image Recognition at Scale (2020),
        arXiv 2010.11929
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), arXiv 2104.09864
    Heo et al., Rotary Position Embedding for Vision Transformer (2024), arXiv 2403.13298
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
    """The position embedding for the tokens of a canvas in row-major order, the same for all examples.

    One of `added` and `rotation` may be given; the other is None. A new one writes both.
    """

    @abstractmethod
    def added(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n d"] | None:
        """What is added to the n = height * width tokens of a canvas, (1, n, d), or None."""

    @abstractmethod
    def rotation(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n e"] | None:
        """Cosines and sines, (1, n, e), of the angles by which `rotated` (ldm.nn.attention) turns the e channels of a head, or
        None."""


Position: TypeAlias = Callable[[int, int], Places]
"""Makes `Places`, given the width of the tokens and the number of heads: one of the classes below, or a partial of one."""


class SinCos(Places):
    """Fixed sines and cosines of row and column, added to the tokens.

    Arguments:
        width, heads: of the tokens and of attention; the transformer gives them.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt):
        self.width = _fourfold(width, "tokens of width")

    def added(self, height: int, width: int, device: torch.device) -> Float[Tensor, "1 n d"]:
        axes = _rows_and_columns(height, width, device)
        return torch.cat([sinusoidal(axis, self.width // 2) for axis in axes], dim=1)[None]

    def rotation(self, height: int, width: int, device: torch.device) -> None:
        return None


class Rotary(Places):
    """Rotary position embedding along both axes: queries and keys are turned by angles proportional to row and column.

    Arguments:
        base: the slowest pair of channels turns by about 1 / base from one token to the next. It is smaller than for texts,
            because a canvas has fewer places along an axis (Heo et al. 2024).
        width, heads: of the tokens and of attention; the transformer gives them.
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
    """No position embedding.

    Arguments:
        width, heads: of the tokens and of attention; the transformer gives them.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt):
        pass

    def added(self, height: int, width: int, device: torch.device) -> None:
        return None

    def rotation(self, height: int, width: int, device: torch.device) -> None:
        return None


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
