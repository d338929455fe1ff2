"""Bijections one after the other: f = f_n o ... o f_1, with the sum of their log-determinants."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn

from ldm.bijection.base import Bijection, Map
from ldm.types import Context


class Chain(Bijection):
    """Bijections that are applied in order; none is the identity.

    Arguments:
        parts: the bijections, the first of `forward` first.
    """

    def __init__(self, parts: Iterable[Bijection]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        total = x.new_zeros(x.shape[0])
        for part in self.parts:
            x, log_det = part(x, c)
            total = total + log_det
        return x, total

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        total = y.new_zeros(y.shape[0])
        for part in reversed(self.parts):
            y, log_det = part.inverse(y, c)
            total = total + log_det
        return y, total

    def begin(self, x: Map, c: Context) -> Map:
        for part in self.parts:
            x = part.begin(x, c)
        return x
