"""Attention: softmax(q k^T / sqrt(d)) v over several heads (Vaswani et al. 2017, equation 1), on tokens and on pixels.

`TransformerBlock` is the block of latent diffusion (Rombach et al. 2021, section 3.3): x + self-attention, x + cross-
attention to the context's tokens, x + gated feed-forward (GEGLU, Shazeer 2020), each behind a layer norm. Queries, keys
and values of the same tokens come from one matrix product. With `qk_norm` queries and keys are normalised to unit root mean
square in each head and multiplied by a learnt weight for each channel, which bounds the argument of the softmax (Dehghani
et al. 2023, section 2; Esser et al. 2024, section 5.3.2).

Sources:
    Vaswani et al., Attention Is All You Need (2017), arXiv 1706.03762
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
    Shazeer, GLU Variants Improve Transformer (2020), arXiv 2002.05202
    Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters (2023), arXiv 2302.05442
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (2024), arXiv 2403.03206
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.norm import Group, Norm
from ldm.types import Probability


class Attention(nn.Module):
    """Multi-head attention of tokens (b, n, width) to themselves, or to a context (b, m, context).

    Arguments:
        width: of the tokens.
        heads: number of heads; it divides the width.
        context: width of the context's tokens; None for self-attention.
        bias: whether the linear maps to queries, keys and values have a bias (that of the output always has).
        qk_norm: whether queries and keys are normalised.
    """

    def __init__(
        self,
        width: PositiveInt,
        heads: PositiveInt,
        context: PositiveInt | None = None,
        bias: bool = False,
        qk_norm: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"attention over {width} channels cannot have {heads} heads; choose a divisor of {width}")
        self.heads = heads
        self.to_q = None if context is None else nn.Linear(width, width, bias=bias)
        if context is None:
            self.to_qkv = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.to_kv = nn.Linear(context, 2 * width, bias=bias)
        self.to_out = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        tokens: Float[Tensor, "b m k"] | None = None,
        mask: Bool[Tensor, "b m"] | None = None,
        rotation: Float[Tensor, "#b n e"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, width) after attention, before the residual is added.

        Arguments:
            x: the tokens that attend, (b, n, width).
            tokens: the context's tokens, (b, m, context); None for self-attention.
            mask: True for the tokens that are attended to, (b, m).
            rotation: of queries and keys by their positions (ldm.backbone.position), in self-attention.
        """
        if self.to_q is None:
            q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        else:
            q, (k, v) = self.to_q(x), self.to_kv(tokens).chunk(2, dim=-1)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in (q, k, v))
        if self.norm_q is not None:
            q, k = self.norm_q(q.float()).to(v.dtype), self.norm_k(k.float()).to(v.dtype)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        bias = None if mask is None else mask[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.to_out(rearrange(y, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """The gated feed-forward layer GEGLU: out(a * gelu(g)) with (a, g) = in(x) (Shazeer 2020).

    Arguments:
        width: of the tokens.
        expansion: width of a, as a multiple of `width`.
        dropout: share of the hidden activations that are left out in training.
    """

    def __init__(self, width: PositiveInt, expansion: PositiveInt = 4, dropout: Probability = 0.0):
        super().__init__()
        self.to_hidden = nn.Linear(width, 2 * expansion * width)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Linear(expansion * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, width) to tokens."""
        hidden, gate = self.to_hidden(x).chunk(2, dim=-1)
        return self.to_out(self.dropout(hidden * F.gelu(gate)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and GEGLU, each in a residual branch behind a layer norm.

    Arguments:
        width: of the tokens.
        heads: number of heads.
        context: width of the context's tokens; None leaves cross-attention out.
        expansion: width of the feed-forward, as a multiple of `width`.
        dropout: share of the activations that are left out in training.
    """

    def __init__(
        self,
        width: PositiveInt,
        heads: PositiveInt,
        context: PositiveInt | None = None,
        expansion: PositiveInt = 4,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_attention = None if context is None else Attention(width, heads, context)
        self.cross_norm = None if context is None else nn.LayerNorm(width)
        self.feed_norm, self.feed = nn.LayerNorm(width), FeedForward(width, expansion, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        tokens: Float[Tensor, "b m k"] | None = None,
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens x (b, n, width) to tokens, given the context's tokens (b, m, context) and their mask (b, m)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x)))
        if self.cross_attention is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), tokens, mask))
        return x + self.feed(self.feed_norm(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map: x + out(blocks(in(norm(x)))), with linear maps `in` and `out` over
    channels, that is 1x1 convolutions.

    Arguments:
        channels: of the map.
        heads: number of heads.
        context: width of the context's tokens; None leaves cross-attention out.
        depth: number of blocks.
        expansion: width of the feed-forward, as a multiple of `channels`.
        dropout: share of the activations that are left out in training.
        norm: makes the normalisation of the map, given the number of channels.
    """

    def __init__(
        self,
        channels: PositiveInt,
        heads: PositiveInt,
        context: PositiveInt | None = None,
        depth: PositiveInt = 1,
        expansion: PositiveInt = 4,
        dropout: Probability = 0.0,
        norm: Norm = Group,
    ):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.to_tokens = nn.Linear(channels, channels)
        blocks = [TransformerBlock(channels, heads, context, expansion, dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.to_pixels = nn.Linear(channels, channels)

    def start_as_identity(self) -> None:
        """Set the last weights of the residual branch to zero."""
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        tokens: Float[Tensor, "b m k"] | None = None,
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """A map (b, c, h, w) to a map, given the context's tokens (b, m, context) and their mask (b, m)."""
        y = self.to_tokens(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        for block in self.blocks:
            y = block(y, tokens, mask)
        return x + rearrange(self.to_pixels(y), "b (h w) c -> b c h w", h=x.shape[2])


class SpatialAttention(nn.Module):
    """Self-attention over the pixels of a feature map: x + attention(norm(x)). Autoencoders use it with one head.

    Arguments:
        channels: of the map.
        heads: number of heads.
        norm: makes the normalisation of the map, given the number of channels.
    """

    def __init__(self, channels: PositiveInt, heads: PositiveInt = 1, norm: Norm = Group):
        super().__init__()
        self.norm = norm(channels)
        self.attention = Attention(channels, heads, bias=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map (b, c, h, w) to a map."""
        y = self.attention(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        return x + rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])


def masked_mean(tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
    """The mean over the tokens (b, n, d) that the mask (b, n) keeps, (b, d); zero where it keeps none."""
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def rotated(x: Float[Tensor, "b h n e"], rotation: Float[Tensor, "#b n e"]) -> Float[Tensor, "b h n e"]:
    """Queries or keys x (b, heads, n, e) with channels i and e / 2 + i of each token turned by its angle i, computed in
    float32. `rotation` (1 or b, n, e) holds the e / 2 cosines and the e / 2 sines."""
    cos, sin = rotation[:, None].chunk(2, dim=-1)
    u, v = x.float().chunk(2, dim=-1)
    return torch.cat([u * cos - v * sin, u * sin + v * cos], dim=-1).to(x.dtype)
