"""How far a reconstruction is from its image, as a likelihood with a learnt spread.

Per image, in nats, summed over all its numbers, with one learnt log-variance v (arXiv 1903.05789, section 4):

    Gaussian   1/2 sum((x - y)^2 / e^v + v + log 2 pi)             y the mean, e^v the variance
    Laplace    sum(|x - y| / e^(v/2) + v/2 + log 2)                e^(v/2) the scale
    Blend      sum(d / e^v + v),  d = (1 - s)|x - y| + s (x - y)^2  (no normalised density; constants left out)

Summed as the KL term is, so `kl_weight` 1 with the Gaussian is the evidence bound of a VAE and 1e-6 a faint pull; v
finds the scale of the error, which otherwise would have to be tuned as a weight. Its best value is the logarithm of the
mean error (arXiv 2006.13202, section 4.1), about -5 for a good Gaussian. An optimiser of Adam's kind moves every
parameter by about its learning rate, so v alone would need tens of thousands of updates to get there: v = speed *
parameter goes `speed` times as fast.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from ldm.types import Image, Probability


class PixelLikelihood(nn.Module, ABC):
    """-log p(x | y) per image.

    Arguments:
        log_variance: v at first.
        learnt: learn v with the decoder, or keep it.
        speed: how many times as fast as a weight it moves.
    """

    def __init__(self, log_variance: float = 0.0, learnt: bool = True, speed: PositiveFloat = 10.0):
        super().__init__()
        self.speed = speed
        self.scaled_log_variance = nn.Parameter(torch.tensor(log_variance / speed), requires_grad=learnt)

    @property
    def log_variance(self) -> Float[Tensor, ""]:
        """v, with its gradient."""
        return self.speed * self.scaled_log_variance

    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """(b,) nats, float32; `extra` is a further error per image in the error's unit, summed over its numbers."""
        error = self._error(x.float() - y.float()).flatten(1).sum(1)
        return self._nats(error if extra is None else error + extra, x[0].numel())

    @abstractmethod
    def _error(self, difference: Image) -> Image:
        """The error of each number."""

    @abstractmethod
    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        """Nats of errors summed over so many numbers."""


class Gaussian(PixelLikelihood):
    """The exact density of N(y, e^v), constants included."""

    def _error(self, difference: Image) -> Image:
        return difference.square()

    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        v = self.log_variance
        return 0.5 * (error * torch.exp(-v) + numbers * (v + math.log(2 * math.pi)))


class Laplace(PixelLikelihood):
    """The exact density of the Laplace distribution about y with scale e^(v/2), constants included."""

    def _error(self, difference: Image) -> Image:
        return difference.abs()

    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        v = self.log_variance
        return error * torch.exp(-0.5 * v) + numbers * (0.5 * v + math.log(2))


class Blend(PixelLikelihood):
    """(1 - square) |x - y| + square (x - y)^2 over one learnt scale e^v, as in published first stages (square 0)."""

    def __init__(
        self, square: Probability = 0.5, log_variance: float = 0.0, learnt: bool = True, speed: PositiveFloat = 10.0
    ):
        super().__init__(log_variance, learnt, speed)
        self.square = square

    def _error(self, difference: Image) -> Image:
        return (1 - self.square) * difference.abs() + self.square * difference.square()

    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        v = self.log_variance
        return error * torch.exp(-v) + numbers * v
