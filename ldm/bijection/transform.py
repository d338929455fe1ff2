"""Monotone functions of one number each, whose parameters a network gives: what a coupling layer does to the numbers it moves.

    affine:      y = x exp(s) + t,   s = bound tanh(r / bound)       (Dinh et al. 2016, section 3.3)
    additive:    y = x + t                                           (Dinh et al. 2014)

A log-scale without a bound is what makes flows fail: in training it overflows, and a scale that goes to 0 (as through a sigmoid)
is divided by in sampling, where noise a little outside of what was trained becomes an image of infinities. Within the bound the
slope of every layer is between exp(-bound) and exp(bound). Parameters 0 are the identity. Rational-quadratic splines, which
bend, are in ldm.bijection.spline.

Sources:
    Dinh et al., NICE: Non-linear Independent Components Estimation (2014), arXiv 1410.8516
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from ldm.constructed import Constructed

Numbers: TypeAlias = Float[Tensor, "*n"]
Parameters: TypeAlias = Float[Tensor, " p *n"]


class Transform(Constructed, ABC):
    """An increasing function of each number by itself, which is the identity where its parameters are 0.

    Attributes:
        count: how many parameters p a number's function has.
    """

    count: int

    @abstractmethod
    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """y of numbers x of any shape, and log dy/dx of each; parameters are (p, *shape)."""

    @abstractmethod
    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """x, and log dx/dy of each number."""


class Affine(Transform):
    """y = x exp(s) + t.

    Arguments:
        bound: of |s|.
    """

    count = 2

    def __init__(self, bound: PositiveFloat = 2.0):
        self.bound = bound

    def _of(self, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """s and t."""
        raw, shift = parameters
        return self.bound * torch.tanh(raw / self.bound), shift

    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        log_scale, shift = self._of(parameters)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        log_scale, shift = self._of(parameters)
        return (y - shift) * (-log_scale).exp(), -log_scale


class Additive(Transform):
    """y = x + t, which keeps volumes: densities come from the other layers' scales alone."""

    count = 1

    def __init__(self) -> None:
        pass

    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        return x + parameters[0], torch.zeros_like(x)

    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        return y - parameters[0], torch.zeros_like(y)
