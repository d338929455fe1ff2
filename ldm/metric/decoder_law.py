"""The law of an image given what the decoder makes, for the bound of two-stage models (ldm.metric.bits_per_dim).

A decoder gives one image y. Of the law about it only a scale is open, one number for all numbers of all images, and that is
the one under which the measured images are the most probable, as it maximises the bound of one draw (Rybkin et al. 2020, section
4.1). Fitted to the n measured images of d numbers it flatters by about 1 / (2 n d) nats a number, which is nothing.

    Gaussian               p(x' | z) = N(x'; y, v),  v the mean squared error
    DiscretisedLogistic    P(x | z) of the levels themselves (ldm.loss.reconstruction), of the best of a list of scales

The second needs no dequantisation. It is the law of a decoder that was trained by it: what lies beyond black and white counts
as black and white there, so an image that is black almost everywhere costs far fewer bits than under a Gaussian of one variance.

Sources:
    Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders (2020), arXiv 2006.13202
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.constructed import Constructed
from ldm.nn.logistic import log_mass
from ldm.types import Image

_LOG_SCALES = torch.linspace(-7.0, 1.0, 41)  # steps of 0.2, within which the best is missed by at most 0.1


class DecoderLaw(Constructed, ABC):
    """A new one writes `kept`, of each batch, and `log_p`, of all images at the end.

    Attributes:
        columns: s, how many numbers of each draw are kept.
        levels: of how many values in [-1, 1] it is a law; None of any number.
    """

    columns: int
    levels: int | None = None

    @abstractmethod
    def kept(self, x: Image, spread: Image, y: Image) -> Float[Tensor, "b s"]:
        """All that has to be known of images x, drawn from their levels as `spread`, and decoded images y; summed over
        numbers."""

    @abstractmethod
    def log_p(self, kept: Float[Tensor, "n k s"], numbers: int, width: float) -> Float[Tensor, "n k"]:
        """log p(x' | z) of k draws of n images of so many numbers, in the unit of a density where levels are `width` wide."""


class Gaussian(DecoderLaw):
    """N(y, v) with the variance of these images."""

    columns = 1

    def kept(self, x: Image, spread: Image, y: Image) -> Float[Tensor, "b s"]:
        return (spread - y).float().square().flatten(1).sum(1, keepdim=True)

    def log_p(self, kept: Float[Tensor, "n k s"], numbers: int, width: float) -> Float[Tensor, "n k"]:
        v = kept.mean() / numbers
        return -0.5 * (kept[..., 0] / v + numbers * torch.log(2 * math.pi * v))


class DiscretisedLogistic(DecoderLaw):
    """The logistic law of mean y over 8-bit levels, with the best of 41 scales."""

    columns = len(_LOG_SCALES)
    levels = 256

    def kept(self, x: Image, spread: Image, y: Image) -> Float[Tensor, "b s"]:
        each = [log_mass(x.float(), y.float(), log_scale).flatten(1).sum(1) for log_scale in _LOG_SCALES.to(x.device)]
        return torch.stack(each, 1)

    def log_p(self, kept: Float[Tensor, "n k s"], numbers: int, width: float) -> Float[Tensor, "n k"]:
        return kept[..., kept.mean((0, 1)).argmax()] - numbers * math.log(width)
