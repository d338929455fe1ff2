"""The invertible 1x1 convolution: every pixel's channels are multiplied by one learnt matrix, a permutation made soft.

    W = P L (U + diag(s)),        log|det| = h w sum(log|s|)

with a permutation P and the signs of s fixed, L unit lower and U strictly upper triangular (Kingma and Dhariwal 2018,
section 3.2, equation 10). W begins as a random rotation. As log|s| is what is learnt, no step of training can make W singular,
which a matrix that is learnt as it stands may become; and the inverse is two triangular systems.

Sources:
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.bijection.base import Bijection, Map, uncast
from ldm.types import Context


class Conv1x1(Bijection):
    """A learnt invertible matrix over the channels of every pixel.

    Arguments:
        channels: of the map.
    """

    def __init__(self, channels: PositiveInt):
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels)).Q)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def triangles(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s), (c, c)."""
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), device=self.lower.device)
        return lower, self.upper.triu(1) + (self.signs * self.log_diagonal.exp()).diag()

    def _log_det(self, x: Map) -> Float[Tensor, " b"]:
        return (x.shape[2] * x.shape[3] * self.log_diagonal.sum()).expand(x.shape[0])

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(x):
            lower, upper = self.triangles()
            y = (self.permutation @ lower @ upper) @ x.flatten(2)
        return y.view_as(x), self._log_det(x)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(y):
            lower, upper = self.triangles()
            x = torch.linalg.solve_triangular(lower, self.permutation.T @ y.flatten(2), upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(y), -self._log_det(y)
