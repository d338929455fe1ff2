"""What happens between the encoder and the decoder: nothing, a Gaussian posterior, or a vector quantiser.

Gaussian (arXiv 1312.6114, appendix B): the encoder gives mean and log-variance, q(z|x) = N(mean, std^2), and

    KL(q || N(0, 1)) = 1/2 sum(mean^2 + std^2 - 1 - log std^2)

summed over all entries of the latent. Vector quantiser: see `ldm.autoencoder.quantiser`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.types import Latent


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = N(mean, std^2), independent per entry; std 0 where the encoder is deterministic."""

    mean: Latent
    std: Latent

    @property
    def mode(self) -> Latent:
        return self.mean

    def sample(self, noise: Latent) -> Latent:
        """mean + std * noise, for standard normal noise of the latent's shape."""
        return self.mean + self.std * noise

    def kl(self) -> Float[Tensor, " b"]:
        """KL(q || N(0, 1)) in nats, summed over the entries of each example; infinite where std is 0."""
        terms = self.mean.square() + self.std.square() - 1 - 2 * self.std.log()
        return 0.5 * terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Coded:
    """What a bottleneck makes of the encoder's output in training.

    z is what the decoder reads. `terms` are loss terms per image (summed over the latent, mean over the batch), without
    the weight of a KL term.
    """

    z: Latent
    posterior: Posterior
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class Bottleneck(Constructed, nn.Module, ABC):
    """Between encoder and decoder.

    channels: of the latent; None for as many as the image has (`Identity` only).
    moments: numbers that it wants from the encoder for each latent channel.
    """

    channels: int | None
    moments: int = 1

    @abstractmethod
    def posterior(self, h: Float[Tensor, "b m lh lw"]) -> Posterior:
        """q(z|x) from the encoder's output."""

    @abstractmethod
    def forward(self, h: Float[Tensor, "b m lh lw"], noise: Latent) -> Coded:
        """A latent to train with and its loss terms; `noise` is standard normal."""

    @abstractmethod
    def restore(self, z: Latent) -> Latent:
        """The latent that the decoder reads, from a latent that a prior made: where quantisation happens."""

    def step(self) -> dict[str, Float[Tensor, ""]]:
        """Ends an update, on all ranks: what is learnt from its training passes other than by gradients; numbers to log."""
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
    """A diagonal Gaussian posterior; log-variance clamped to [-30, 20] so that no std under- or overflows.

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
