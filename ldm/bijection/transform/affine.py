"""Affine functions: y = x exp(s) + t, s = bound tanh(r / bound), of parameters (r, t) (Dinh et al. 2016, section 3.3).

A log-scale without a bound is what makes flows fail: in training it overflows, and a scale that goes to 0 (as through a sigmoid)
is divided by in sampling, where noise a little outside of what was trained becomes an image of infinities. Within the bound the
slope of every layer is between exp(-bound) and exp(bound).

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat

from ldm.bijection.transform.base import Numbers, Parameters, Transform


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
