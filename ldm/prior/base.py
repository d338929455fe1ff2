"""Priors: generative models of latents, perhaps given a context; and what some of them can do besides sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.random import Random
from ldm.types import Context, Latent


class Prior(Constructed, nn.Module, ABC):
    """A generative model of z (b, c, h, w), unit variance per channel, given a context.

    `random` holds the numbers of the batch (ldm.random); without it torch's own generator seeds them.
    """

    @property
    def factor(self) -> int:
        """Of which the sides of latents must be multiples."""
        return 1

    @abstractmethod
    def loss(self, z: Latent, c: Context, random: Random | None = None) -> dict[str, Tensor]:
        """Named scalar terms; their sum is minimised."""

    @abstractmethod
    def sample(self, shape: tuple[int, int, int, int], c: Context, random: Random | None = None) -> Latent:
        """Latents of `shape` (b, c, h, w), the same for the same seed whatever the batch they are drawn in."""


class Likelihood(ABC):
    """The capability to give densities; what needs it asks `isinstance(prior, Likelihood)`."""

    kind: Literal["exact", "bound", "estimate"]

    @abstractmethod
    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,). `random` is what an estimate draws; without it, that of seed 0 and the places in
        the batch, so that the same call gives the same number."""
