"""Bijections: invertible maps with a Jacobian whose determinant is cheap, of which normalizing flows are made.

If u = f(z; c) is invertible in z and u has the density p, then (change of variables; Rezende and Mohamed 2015, equation 5)

    log p(z | c) = log p(f(z; c)) + log|det df/dz|,

and z = f^-1(u; c) with u ~ p is a sample. Log-determinants of bijections one after the other add up. Both are computed in
float32: a log-determinant is a sum over all numbers of a latent, and inverting amplifies what rounding has lost.

Sources:
    Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), arXiv 1505.05770
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.types import Context

Map: TypeAlias = Float[Tensor, "b _ _ _"]
"""Maps (b, c, h, w) of any shape: a squeeze changes it."""


class Bijection(Constructed, nn.Module, ABC):
    """An invertible map of maps (b, c, h, w), given a context. A new one writes `forward` and `inverse`."""

    @abstractmethod
    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        """y, and log|det dy/dx| of each example in nats, (b,)."""

    @abstractmethod
    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        """x, and log|det dx/dy| of each example in nats, (b,): the negative of forward's at x."""

    def begin(self, x: Map, c: Context) -> Map:
        """Take from a first batch x what has to be there before training, then give y. By default there is nothing to
        take."""
        return self(x, c)[0]


def uncast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A block that autocast leaves in float32, on the device of x; a meta tensor, of which a cost is counted, has no autocast."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
