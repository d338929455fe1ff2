"""The error of a reconstruction as a likelihood -log p(x | y) with a learnt scale.

For an image x and its reconstruction y, in nats, summed over all numbers of the image, with one learnt log-variance v (Dai
and Wipf 2019, section 4):

    Gaussian   1/2 sum((x - y)^2 / e^v + v + log 2 pi)               mean y, variance e^v
    Laplace    sum(|x - y| / e^(v/2) + v/2 + log 2)                  median y, scale e^(v/2)
    Blend      sum(d / e^v + v),  d = (1 - s)|x - y| + s (x - y)^2   no normalised density; constants are left out

or, of images of 8 bits and not of numbers, as a probability of their levels (Salimans et al. 2017, section 2.1; ldm.nn.logistic),

    DiscretisedLogistic   -sum log(F((x + h - y) / s) - F((x - h - y) / s))     mean y, scale s = e^(v/2)

with all that lies beyond black and white at black and white: what is wholly black then costs nothing, however wide the law
elsewhere, where y is far below black. Images that are black or white almost everywhere, as written digits, ask for this one.

The KL term is summed over a latent in the same way. So `kl_weight=1` with the Gaussian is the evidence lower bound of a VAE,
and `kl_weight=1e-6` only keeps latents from growing. v adapts to the size of the error, which otherwise would have to be
tuned as a weight. Its optimum is the logarithm of the mean error (Rybkin et al. 2020, section 4.1), about -5 for a good
Gaussian reconstruction. Optimisers like Adam change every parameter by about the learning rate in an update, so v would need
tens of thousands of updates to get there. Therefore v = speed * parameter, which makes it `speed` times as fast.

Sources:
    Dai and Wipf, Diagnosing and Enhancing VAE Models (2019), arXiv 1903.05789
    Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders (2020), arXiv 2006.13202
    Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (2017), arXiv 1701.05517
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from ldm.nn.logistic import log_mass
from ldm.types import Image, Probability


class PixelLikelihood(nn.Module, ABC):
    """-log p(x | y) of each image, with a log-variance v. A new one writes `forward`.

    Arguments:
        log_variance: the initial v.
        learnt: whether v is learnt with the decoder.
        speed: how many times as fast as a weight v is learnt.
    """

    def __init__(self, log_variance: float = 0.0, learnt: bool = True, speed: PositiveFloat = 10.0):
        super().__init__()
        self.speed = speed
        self.scaled_log_variance = nn.Parameter(torch.tensor(log_variance / speed), requires_grad=learnt)

    @property
    def log_variance(self) -> Float[Tensor, ""]:
        """v, with gradients."""
        return self.speed * self.scaled_log_variance

    @abstractmethod
    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """-log p(x | y) in nats, (b,), float32, of images x and reconstructions y (b, c, h, w).

        Arguments:
            extra: a further error of each image, (b,), in the unit of the error and summed over numbers like it.
        """


class OfError(PixelLikelihood):
    """One that knows of an image its summed error alone. A new one writes `_error` and `_nats`."""

    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        error = self._error(x.float() - y.float()).flatten(1).sum(1)
        return self._nats(error if extra is None else error + extra, x[0].numel())

    @abstractmethod
    def _error(self, difference: Image) -> Image:
        """The error of each number."""

    @abstractmethod
    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        """-log p(x | y) in nats, (b,), given the errors (b,), each summed over `numbers` numbers."""


class Gaussian(OfError):
    """The density of N(y, e^v), with all constants."""

    def _error(self, difference: Image) -> Image:
        return difference.square()

    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        v = self.log_variance
        return 0.5 * (error * torch.exp(-v) + numbers * (v + math.log(2 * math.pi)))


class Laplace(OfError):
    """The density of the Laplace distribution with median y and scale e^(v/2), with all constants."""

    def _error(self, difference: Image) -> Image:
        return difference.abs()

    def _nats(self, error: Float[Tensor, " b"], numbers: int) -> Float[Tensor, " b"]:
        v = self.log_variance
        return error * torch.exp(-0.5 * v) + numbers * (0.5 * v + math.log(2))


class Blend(OfError):
    """The error (1 - square) |x - y| + square (x - y)^2 with one learnt scale e^v; published first stages have square 0."""

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


class DiscretisedLogistic(PixelLikelihood):
    """The probability of 8-bit levels under the logistic law of mean y and scale e^(v/2). A further error is divided by the
    scale, as |x - y| is far from y."""

    def forward(self, x: Image, y: Image, extra: Float[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        log_scale = 0.5 * self.log_variance
        nats = -log_mass(x.float(), y.float(), log_scale).flatten(1).sum(1)
        return nats if extra is None else nats + extra * torch.exp(-log_scale)
