"""Additive functions: y = x + t, of a parameter t (Dinh et al. 2014). They keep volumes.

Sources:
    Dinh et al., NICE: Non-linear Independent Components Estimation (2014), arXiv 1410.8516
"""

from __future__ import annotations

import torch

from ldm.bijection.transform.base import Numbers, Parameters, Transform


class Additive(Transform):
    """y = x + t, which keeps volumes: densities come from the other layers' scales alone."""

    count = 1

    def __init__(self) -> None:
        pass

    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        return x + parameters[0], torch.zeros_like(x)

    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        return y - parameters[0], torch.zeros_like(y)
