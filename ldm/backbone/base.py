"""Backbones: networks F(z_t, log SNR, c) whose output has the shape of z_t. They do not know what their output means.

Every backbone is conditioned on the noise level by an embedding: two linear layers over a sinusoidal embedding of log SNR
(Ho et al. 2020, appendix B). The mean of the context's tokens can be added to this embedding, so that the whole network is
conditioned on the context, also without attention. A spatial context is concatenated to the input.

Sources:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
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
from ldm.types import Context, ContextShape, Latent, Times

Conditioning: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""What every block is conditioned on: the embedding (b, e), and the context's tokens (b, n, d) with their mask (b, n)."""


class Inner(NamedTuple):
    """A layer inside a network whose output is used elsewhere, as by alignment (ldm.alignment.alignment).

    Fields:
        layer: the layer. Its output is a map (b, width, h, w), tokens (b, n, width) in row-major order, or one token
            (b, width).
        width: the number of channels of a token.
        stride: height and width, in pixels of z, of the part of z that is one token.
    """

    layer: nn.Module
    width: int
    stride: tuple[int, int]


class Backbone(nn.Module, ABC):
    """A network F(z, log_snr, c) with an embedding of the noise level. A new one writes `forward` and `inner`.

    Arguments:
        channels: of z.
        context: the widths of the context's parts.
        width: of the sinusoidal embedding of log SNR that `time` makes.
        embedding: width of the embedding that the blocks are conditioned on.
        time: makes the sinusoidal embedding of log SNR, given its width.
        pooled_context: whether the mean of the context's tokens, if there are any, is added to the embedding.

    Attributes:
        factor: the height and the width of z must be multiples of it.
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
    def forward(self, z: Latent, log_snr: Times, c: Context) -> Latent:
        """F(z, log_snr, c), (b, c, h, w) like z; log_snr is (b,), or (b, k) where `time` reads k noise levels of an example."""

    @property
    @abstractmethod
    def inner(self) -> Inner:
        """The layer that alignment compares with the features of a pretrained network.

        It should be deep enough that its output describes what z shows, with enough layers behind it to predict F from that.
        Raises ValueError where, in training, all tokens pass no such layer.
        """

    def embed(self, log_snr: Times, c: Context) -> Float[Tensor, "b e"]:
        """The embedding of the noise level log_snr (b,), plus that of the mean of the context's tokens with
        `pooled_context`."""
        embedding = self.embed_time(self.time(log_snr).to(self.embed_time[0].weight.dtype))
        if self.embed_context is None:
            return embedding
        return embedding + self.embed_context(masked_mean(c.tokens, c.mask))

    def joined(self, z: Latent, c: Context) -> Float[Tensor, "b k lh lw"]:
        """z and the spatial context, if there is one, concatenated over channels."""
        return z if c.spatial is None else torch.cat([z, c.spatial], dim=1)

    def check(self, z: Tensor, c: Context, factor: int, made_of: str) -> None:
        """Raise ValueError where z or the context does not fit this backbone.

        Arguments:
            factor: the sides of z must be multiples of it.
            made_of: what the factor consists of, for the message.
        """
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
        """Raise ValueError where the widths of the context are not those that the backbone was built for."""
        if c.shape != self.context:
            raise ValueError(
                f"this {type(self).__name__} was built for {self.context}; the context that came has {c.shape}"
            )
