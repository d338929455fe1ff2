"""DiT, the diffusion transformer (Peebles and Xie 2022): F(z_t, log SNR, c) with the shape of z_t.

z is cut into patches of p x p pixels, and each patch is a token. A block is

    x <- x + gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x <- x + cross-attention(norm(x), context tokens)
    x <- x + gate_2 feed-forward(norm(x) (1 + scale_2) + shift_2)

where scales, shifts and gates are linear functions of the embedding of the noise level. They begin at zero, and so every
block begins as the identity (adaLN-Zero, section 3.2). Cross-attention, where the context has tokens, stands between
self-attention and feed-forward as in Chen et al. 2023, section 2.3. The feed-forward is the gated one of ldm.nn.attention;
it is three times as wide as the tokens, where the paper's is four times as wide, and costs about the same. The position of
a token enters by `position` (ldm.backbone.position).

Sources:
    Peebles and Xie, Scalable Diffusion Models with Transformers (2022), arXiv 2212.09748
    Chen et al., PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis
        (2023), arXiv 2310.00426
    Yu et al., Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than You Think
        (2024), arXiv 2410.06940
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.backbone.base import Backbone, Conditioning, Inner
from ldm.backbone.position import Position, SinCos
from ldm.backbone.routing import Routing, put_back, taken
from ldm.nn.attention import Attention, FeedForward
from ldm.nn.embedding import LogSnrEmbedding, TimeEmbedding
from ldm.types import Context, ContextShape, Latent, Probability, Times


class Modulated(nn.Module):
    """norm(x) (1 + scale) + shift, with scale and shift that are linear in the embedding (adaptive layer norm).

    Arguments:
        width: of a token and of the embedding.
        gated: whether to compute a gate, too, for the residual branch that follows.
    """

    def __init__(self, width: PositiveInt, gated: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, (2 + gated) * width)
        self.gated = gated

    def forward(self, x: Float[Tensor, "b n d"], embedding: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor | None]:
        """The modulated tokens (b, n, d), and the gate (b, 1, d) or None, of tokens x and the embedding (b, d)."""
        shift, scale, *gate = self.modulation(embedding)[:, None].chunk(2 + self.gated, dim=-1)
        return self.norm(x) * (1 + scale) + shift, gate[0] if gate else None


class Block(nn.Module):
    """A transformer block with adaptive layer norm: self-attention, cross-attention where the context has tokens, and
    feed-forward."""

    def __init__(
        self,
        width: int,
        heads: int,
        context: int | None,
        expansion: int,
        qk_norm: bool,
        dropout: float,
        checkpointing: bool,
    ):
        super().__init__()
        self.before_attention = Modulated(width, gated=True)
        self.attention = Attention(width, heads, bias=True, qk_norm=qk_norm)
        self.cross_norm = None if context is None else nn.LayerNorm(width, eps=1e-6)
        self.cross_attention = None if context is None else Attention(width, heads, context, bias=True, qk_norm=qk_norm)
        self.before_feed = Modulated(width, gated=True)
        self.feed = FeedForward(width, expansion, dropout)
        self.checkpointing = checkpointing

    def start_as_identity(self) -> None:
        """Set the last weights of every residual branch to zero."""
        outputs = [self.before_attention.modulation, self.before_feed.modulation]
        if self.cross_attention is not None:
            outputs.append(self.cross_attention.to_out)
        for linear in outputs:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _forward(
        self, x: Tensor, rotation: Tensor | None, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        y, gate = self.before_attention(x, embedding)
        x = x + gate * self.attention(y, rotation=rotation)
        if self.cross_attention is not None:
            x = x + self.cross_attention(self.cross_norm(x), tokens, mask)
        y, gate = self.before_feed(x, embedding)
        return x + gate * self.feed(y)

    def forward(
        self, x: Float[Tensor, "b n d"], rotation: Float[Tensor, "#b n e"] | None, conditioning: Conditioning
    ) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, d) to tokens; `rotation` turns queries and keys by their positions (ldm.backbone.position)."""
        if self.checkpointing and self.training:
            return checkpoint(self._forward, x, rotation, *conditioning, use_reentrant=False)
        return self._forward(x, rotation, *conditioning)


class DiT(Backbone):
    """A diffusion transformer over patches of z.

    Arguments:
        channels: of z; the output has as many.
        context: the widths of the context's parts.
        width: of a token.
        depth: number of blocks.
        heads: number of heads of every attention; it divides the width.
        patch: side, in pixels of z, of the square that is one token. The height and width of z must be multiples of it.
        position: how the position of a token enters.
        cross_attention, pooled_context: how the context's tokens enter, at least one of the two: every block attends to
            them, or their mean is added to the embedding of the noise level, which is enough for a class.
        qk_norm: normalise queries and keys.
        expansion: width of the feed-forward, as a multiple of `width`.
        dropout: in the feed-forward.
        checkpointing: recompute activations in the backward pass instead of keeping them.
        routing: in training, a share of the tokens skips the middle blocks.
        time: makes the embedding of log-SNR, given its width.
    """

    def __init__(
        self,
        channels: PositiveInt,
        context: ContextShape,
        *,
        width: PositiveInt = 384,
        depth: PositiveInt = 12,
        heads: PositiveInt = 6,
        patch: PositiveInt = 2,
        position: Position = SinCos,
        cross_attention: bool = True,
        pooled_context: bool = False,
        qk_norm: bool = False,
        expansion: PositiveInt = 3,
        dropout: Probability = 0.0,
        checkpointing: bool = False,
        routing: Routing | None = None,
        time: TimeEmbedding = LogSnrEmbedding,
    ):
        super().__init__(channels, context, width, width, time, pooled_context)
        if context.tokens is not None and not (cross_attention or pooled_context):
            raise ValueError("this DiT would ignore its context: set cross_attention or pooled_context to true")
        self.patch = self.factor = patch
        self.routing, self.places = routing, position(width, heads)
        self.span = None if routing is None else routing.span(depth)
        attended = context.tokens if cross_attention else None
        self.stem = nn.Linear((channels + (context.spatial or 0)) * patch**2, width)
        blocks = [Block(width, heads, attended, expansion, qk_norm, dropout, checkpointing) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.before_head = Modulated(width, gated=False)
        self.head = nn.Linear(width, channels * patch**2)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """The initial weights of the paper's code: every block begins as the identity, and the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            block.start_as_identity()
        for linear in (self.before_head.modulation, self.head):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, z: Latent, log_snr: Times, c: Context) -> Latent:
        """F(z, log_snr, c), (b, c, h, w) like z; log_snr is (b,)."""
        self.check(z, c, self.patch, "patch")
        height, width = (side // self.patch for side in z.shape[2:])
        x = self.stem(rearrange(self.joined(z, c), "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch))
        added = self.places.added(height, width, z.device)
        if added is not None:
            x = x + added.to(x.dtype)
        rotation = self.places.rotation(height, width, z.device)
        embedding = F.silu(self.embed(log_snr, c))
        x = self._routed(x, rotation, (embedding, c.tokens, c.mask))
        x = self.head(self.before_head(x, embedding)[0])
        return rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=self.patch, q=self.patch)

    @property
    def inner(self) -> Inner:
        """The last block of the first third (block 8 of 24 in Yu et al. 2024, table 2). With routing, it is the nearest block
        to it that all tokens pass: one before it, or else one behind it."""
        wanted, depth = (len(self.blocks) - 1) // 3, len(self.blocks)
        start, stop = (depth, depth) if self.span is None else self.span
        passed = [*range(min(wanted, start - 1), -1, -1), *range(stop, depth)]
        if not passed:
            raise ValueError("tokens go around every block: set backbone.routing.before=1, for alignment")
        return Inner(self.blocks[passed[0]], self.stem.out_features, (self.patch, self.patch))

    def _routed(self, x: Tensor, rotation: Tensor | None, conditioning: Conditioning) -> Tensor:
        """The tokens after all blocks; in training only some of them pass the blocks of the routing's span."""
        if self.routing is None or not self.training:
            return self._through(slice(None), x, rotation, conditioning)
        start, stop = self.span
        x = self._through(slice(start), x, rotation, conditioning)
        kept = self.routing.kept(x)
        turned = None if rotation is None else taken(rotation, kept)
        x = put_back(x, self._through(slice(start, stop), taken(x, kept), turned, conditioning), kept)
        return self._through(slice(stop, None), x, rotation, conditioning)

    def _through(self, blocks: slice, x: Tensor, rotation: Tensor | None, conditioning: Conditioning) -> Tensor:
        for block in self.blocks[blocks]:
            x = block(x, rotation, conditioning)
        return x
