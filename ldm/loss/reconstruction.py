"""How far a reconstruction is from its image, as a likelihood with a learnt spread.

Per image, in nats, summed over all its numbers, with one learnt log-variance v (arXiv 1903.05789, section 4):

    Gaussian   1/2 sum((x - y)^2 / e^v + v + log 2 pi)             y the mean, e^v the variance
    Laplace    sum(|x - y| / e^(v/2) + v/2 + log 2)                e^(v/2) the scale
    Blend      both shares of an absolute and a squared error      (no normalised density; constants left out)

Summed as the KL term is, so `kl_weight` 1 with the Gaussian is the evidence bound of a VAE and 1e-6 a faint pull; v finds the
scale of the error, which otherwise would have to be tuned as a weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.types import Image, Probability


class Likelihood(nn.Module, ABC):
    """-log p(x | y) per image; `log_variance` is learnt with the decoder, or kept if `learnt` is false."""

    def __init__(self, log_variance: float = 0.0, learnt: bool = True):
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(float(log_variance)), requires_grad=learnt)

    @abstractmethod
    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """(b,) nats; `extra` is a further error per image in the error's unit, summed over its numbers."""


def _summed(values: Image, extra: Tensor | None) -> Tensor:
    total = values.flatten(1).sum(1)
    return total if extra is None else total + extra


class Gaussian(Likelihood):
    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        error = _summed((x.float() - y.float()).square(), extra)
        constant = x[0].numel() * (self.log_variance + math.log(2 * math.pi))
        return 0.5 * (error * torch.exp(-self.log_variance) + constant)


class Laplace(Likelihood):
    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        error = _summed((x.float() - y.float()).abs(), extra)
        constant = x[0].numel() * (0.5 * self.log_variance + math.log(2))
        return error * torch.exp(-0.5 * self.log_variance) + constant


class Blend(Likelihood):
    """(1 - square) |x - y| + square (x - y)^2 over one learnt scale."""

    def __init__(self, square: Probability = 0.5, log_variance: float = 0.0, learnt: bool = True):
        super().__init__(log_variance, learnt)
        self.square = square

    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        difference = x.float() - y.float()
        error = _summed((1 - self.square) * difference.abs() + self.square * difference.square(), extra)
        return error * torch.exp(-self.log_variance) + x[0].numel() * self.log_variance
