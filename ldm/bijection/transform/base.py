"""Monotone functions of one number each, whose parameters a network gives: what couplings and autoregressive layers do.

Files beside this one are such functions: affine, additive, rational-quadratic splines and deep sigmoidal ones. The first two
move and scale; the last two bend, so that a single layer can make several modes of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

from jaxtyping import Float
from torch import Tensor

from ldm.constructed import Constructed

Numbers: TypeAlias = Float[Tensor, "*n"]
Parameters: TypeAlias = Float[Tensor, " p *n"]


class Transform(Constructed, ABC):
    """An increasing function of each number by itself, which is the identity, or near it, where its parameters are 0.

    Attributes:
        count: how many parameters p a number's function has.
        closed: whether the inverse has a formula, and is not searched for.
    """

    count: int
    closed: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """y of numbers x of any shape, and log dy/dx of each; parameters are (p, *shape)."""

    @abstractmethod
    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """x, and log dx/dy of each number."""
