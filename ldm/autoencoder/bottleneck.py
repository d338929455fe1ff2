"""Bottlenecks between the encoder and the decoder: none, a Gaussian posterior, or a vector quantiser.

With the Gaussian bottleneck (Kingma and Welling 2013, appendix B) the encoder gives mean and log-variance of
q(z|x) = N(mean, std^2), and the divergence from the standard normal distribution is

    KL(q || N(0, 1)) = 1/2 sum(mean^2 + std^2 - 1 - log std^2),

summed over all numbers of the latent. The vector quantiser is in ldm.autoencoder.quantiser, pixels with a density in
ldm.autoencoder.dequantised and, as logits, in ldm.autoencoder.logit.

Sources:
    Kingma and Welling, Auto-Encoding Variational Bayes (2013), arXiv 1312.6114
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.types import Image, Latent


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = N(mean, std^2), independent in every number of the latent; std is 0 where the encoder is deterministic."""

    mean: Latent
    std: Latent

    @property
    def mode(self) -> Latent:
        """The most probable latent, which is the mean."""
        return self.mean

    def sample(self, noise: Latent) -> Latent:
        """mean + std * noise, for standard normal noise of the latent's shape."""
        return self.mean + self.std * noise

    def whitened(self, mean: Tensor, std: Tensor) -> Posterior:
        """That of (z - mean) / std, for a mean and a deviation of each channel, (c, 1, 1)."""
        return replace(self, mean=(self.mean - mean) / std, std=self.std / std)

    def kl(self) -> Float[Tensor, " b"]:
        """KL(q || N(0, 1)) in nats, summed over the numbers of each latent, (b,); inf where std is 0."""
        terms = self.mean.square() + self.std.square() - 1 - 2 * self.std.log()
        return 0.5 * terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Coded:
    """The result of a bottleneck in training.

    Fields:
        z: the latent that the decoder is given.
        posterior: q(z|x).
        terms: loss terms, summed over a latent and averaged over images; `kl` is without its weight.
    """

    z: Latent
    posterior: Posterior
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class Bottleneck(Constructed, nn.Module, ABC):
    """What stands between encoder and decoder. A new one writes `posterior`, `forward` and `restore`.

    Attributes:
        channels: of the latent; None for as many as the image has (`Identity` only).
        moments: how many channels the encoder has to give for each channel of the latent.
    """

    channels: int | None
    moments: int = 1

    @abstractmethod
    def posterior(self, h: Float[Tensor, "b m lh lw"]) -> Posterior:
        """q(z|x), given the encoder's output (b, moments * channels, h, w)."""

    def kept(self, mean: Latent, std: Latent) -> Posterior:
        """q(z|x) again, of the mean and std that a latent cache kept of it."""
        return Posterior(mean, std)

    @abstractmethod
    def forward(self, h: Float[Tensor, "b m lh lw"], noise: Latent) -> Coded:
        """A latent for training, and its loss terms, given the encoder's output and standard normal noise of the latent's
        shape."""

    @abstractmethod
    def restore(self, z: Latent) -> Latent:
        """The latent that the decoder is given, of a latent that a prior made: a quantiser quantises here."""

    def raw(self, x: Image) -> tuple[Latent, Float[Tensor, " b"]]:
        """The latent, where it is the image itself moved number by number, of images x of numbers within their levels, and
        log|det dz/dx| of each, (b,); by default x is not moved."""
        return x, x.new_zeros(len(x))

    def step(self) -> dict[str, Float[Tensor, ""]]:
        """Called on all ranks at the end of an update: learns what is not learnt by gradients from the training passes of the
        update, and returns numbers to log."""
        return {}


class Identity(Bottleneck):
    """The encoder's output is the latent.

    Arguments:
        channels: of the latent; None for as many as the image has.
    """

    def __init__(self, channels: PositiveInt | None = None):
        super().__init__()
        self.channels = channels

    def posterior(self, h: Latent) -> Posterior:
        return Posterior(h, torch.zeros_like(h))

    def forward(self, h: Latent, noise: Latent) -> Coded:
        return Coded(h, self.posterior(h))

    def restore(self, z: Latent) -> Latent:
        return z


class DiagonalGaussian(Bottleneck):
    """A diagonal Gaussian posterior. The log-variance is clamped to [-30, 20], so that std neither under- nor overflows.

    Arguments:
        channels: of the latent.
    """

    moments = 2

    def __init__(self, channels: PositiveInt):
        super().__init__()
        self.channels = channels

    def posterior(self, h: Float[Tensor, "b m lh lw"]) -> Posterior:
        mean, log_variance = h.float().chunk(2, dim=1)
        return Posterior(mean, torch.exp(0.5 * log_variance.clamp(-30, 20)))

    def forward(self, h: Float[Tensor, "b m lh lw"], noise: Latent) -> Coded:
        posterior = self.posterior(h)
        return Coded(posterior.sample(noise), posterior, terms={"kl": posterior.kl().mean()})

    def restore(self, z: Latent) -> Latent:
        return z
