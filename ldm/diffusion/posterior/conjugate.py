"""Conjugate gradients (Hestenes and Stiefel 1952) for S u = r, each row of a batch by itself.

After k steps u is the best of the space of r, S r, ..., S^{k-1} r; in exact arithmetic it is the solution as soon as k is the
number of different eigenvalues of S. S has to be symmetric and positive. A covariance that comes from a network is so only
nearly: a row stops where it meets a direction p with p . S p <= least |p|^2, and keeps what it has (Steihaug 1983), and where
its residual is rounding, beyond which float32 runs away. No row waits for another, and no step for a device.

Sources:
    Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems (1952), doi 10.6028/jres.049.044
    Steihaug, The Conjugate Gradient Method and Trust Regions in Large Scale Optimization (1983), doi 10.1137/0720042
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor

from ldm.diffusion.denoiser import along
from ldm.types import Latent


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], r: Latent, iterations: PositiveInt, least: float = 0.0
) -> Latent:
    """u with S u = r, nearly, of the shape of r (b, c, h, w).

    Arguments:
        operator: v -> S v, row by row.
        r: the right side.
        iterations: the number of products with S.
        least: a number below all eigenvalues of S, where one is known.
    """
    u, p, square = torch.zeros_like(r), r, _dot(r, r)
    rounding = square * torch.finfo(r.dtype).eps ** 2
    going = square > 0
    for _ in range(iterations):
        product = operator(p)
        curvature = _dot(p, product)
        going = going & (curvature > least * _dot(p, p)) & (square > rounding)
        step = torch.where(going, square / torch.where(going, curvature, 1), 0)
        u, r = u + along(step, u) * p, r - along(step, r) * product
        last, square = square, _dot(r, r)
        p = r + along(torch.where(going, square / torch.where(going, last, 1), 0), p) * p
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
