"""Backbones: networks F(z_t, log-SNR, c) with the shape of z_t, which know nothing of diffusion.

Every one of them is told the noise level by two layers over a sinusoidal embedding of log-SNR (arXiv 2006.11239,
appendix B). The mean of the context's tokens may be added to it, so that the whole network is told the context even
without attention. A spatial context is concatenated to the input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.nn.embedding import TimeEmbedding
from ldm.types import Context, ContextShape, Latent, Time

Conditioning: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""What every block is told: the embedding (b, e), the context's tokens and their mask."""


class Inner(NamedTuple):
    """A layer on the way through a network, whose output others look at.

    Fields:
        layer: gives a map (b, width, h, w), its tokens (b, n, width) row by row, or for one token (b, width).
        width: of a token.
        stride: height and width of the part of z that is one token.
    """

    layer: nn.Module
    width: int
    stride: tuple[int, int]


class Backbone(nn.Module, ABC):
    """
    Arguments:
        channels: of z.
        context: what the context holds.
        width: of the embedding of log-SNR that `time` makes.
        embedding: width of what the network's parts are told.
        pooled_context: whether the mean of the context's tokens, where there are some, is added to it.

    Attributes:
        factor: of which the height and width of z must be multiples.
    """

    factor: int = 1

    def __init__(
        self,
        channels: PositiveInt,
        context: ContextShape,
        width: PositiveInt,
        embedding: PositiveInt,
        time: TimeEmbedding,
        pooled_context: bool,
    ):
        super().__init__()
        self.channels, self.context = channels, context
        self.time = time(width)
        self.embed_time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_context = nn.Linear(context.tokens, embedding) if pooled_context and context.tokens else None

    @abstractmethod
    def forward(self, z: Latent, log_snr: Time, c: Context) -> Latent:
        """F(z, log_snr, c), of z's shape; log_snr is (b,)."""

    @property
    @abstractmethod
    def inner(self) -> Inner:
        """Where the network is to have understood z, with as much of it left to say what was asked; for alignment.
        ValueError where training leaves no such layer to all tokens."""

    def embed(self, log_snr: Time, c: Context) -> Float[Tensor, "b e"]:
        """What the network's parts are told of the noise level and, pooled, of the context."""
        embedding = self.embed_time(self.time(log_snr).to(self.embed_time[0].weight.dtype))
        return (
            embedding if self.embed_context is None else embedding + self.embed_context(masked_mean(c.tokens, c.mask))
        )

    def joined(self, z: Latent, c: Context) -> Float[Tensor, "b k lh lw"]:
        """z and the spatial context, if any, as channels of one map."""
        return z if c.spatial is None else torch.cat([z, c.spatial], dim=1)

    def check(self, z: Tensor, c: Context, factor: int, made_of: str) -> None:
        """ValueError where the channels, sides (multiples of `factor`, which is `made_of`) or context are others."""
        _, channels, height, width = z.shape
        if channels != self.channels or height % factor or width % factor:
            below = max(height, width) // factor * factor
            good = " or ".join(str(n) for n in (below, below + factor) if n > 0)
            raise ValueError(
                f"this {type(self).__name__} takes (b, {self.channels}, h, w) with h and w multiples of {factor} "
                f"({made_of}); got {tuple(z.shape)}; nearest sides: {good}"
            )
        self.check_context(c)

    def check_context(self, c: Context) -> None:
        if c.shape != self.context:
            raise ValueError(
                f"this {type(self).__name__} was built for {self.context}; the context that came has {c.shape}"
            )
