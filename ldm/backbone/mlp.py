"""A multi-layer perceptron: F(z_t, log SNR, c) with the shape of z_t, for points in the plane and other small z.

z (c, h, w) is taken as one vector. A block is x + out(silu(hidden(norm(x) (1 + scale) + shift))), where scale and shift are
linear in the embedding of the noise level, to which the mean of the context's tokens is added. Blocks begin as the
identity, and the output begins as zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.backbone.base import Backbone, Inner
from ldm.nn.embedding import LogSnrEmbedding, TimeEmbedding
from ldm.types import Context, ContextShape, Latent, Probability, Times


class _Block(nn.Module):
    def __init__(self, width: int, expansion: int, dropout: float, normalise: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if normalise else nn.Identity()
        self.modulation = nn.Linear(width, 2 * width)
        self.hidden, self.out = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "b d"], embedding: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return x + self.out(self.dropout(F.silu(self.hidden(self.norm(x) * (1 + scale) + shift))))


class MLP(Backbone):
    """A multi-layer perceptron with residual blocks over all numbers of z.

    Arguments:
        channels: of z.
        context: the widths of the context's parts; tokens enter by their mean.
        sides: height and width of z; an MLP takes one size only.
        width: of the hidden vector.
        depth: number of residual blocks.
        expansion: width inside a block, as a multiple of `width`.
        dropout: inside each block.
        normalise: by layer normalisation, at the beginning of each block and before the last layer. Without it the field is
            smoother, which pays where an equation is solved in training (prior=cnf); it may then want a lower learning rate.
        time: makes the embedding of log-SNR, given its width.
    """

    def __init__(
        self,
        channels: PositiveInt,
        context: ContextShape,
        *,
        sides: tuple[PositiveInt, PositiveInt] = (1, 1),
        width: PositiveInt = 128,
        depth: PositiveInt = 4,
        expansion: PositiveInt = 2,
        dropout: Probability = 0.0,
        normalise: bool = True,
        time: TimeEmbedding = LogSnrEmbedding,
    ):
        super().__init__(channels, context, width, width, time, pooled_context=context.tokens is not None)
        self.sides, size = tuple(sides), sides[0] * sides[1]
        self.stem = nn.Linear((channels + (context.spatial or 0)) * size, width)
        self.blocks = nn.ModuleList(_Block(width, expansion, dropout, normalise) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if normalise else nn.Identity()
        self.head = nn.Linear(width, channels * size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Latent, log_snr: Times, c: Context) -> Latent:
        """F(z, log_snr, c), (b, c, h, w) like z; log_snr is (b,)."""
        if tuple(z.shape[1:]) != (self.channels, *self.sides):
            height, width = z.shape[2:]
            raise ValueError(
                f"this MLP takes {(self.channels, *self.sides)} and got {tuple(z.shape[1:])}: build it for these "
                f"channels and with backbone.sides=[{height},{width}]"
            )
        self.check_context(c)
        embedding = F.silu(self.embed(log_snr, c))
        x = self.stem(self.joined(z, c).flatten(1))
        for block in self.blocks:
            x = block(x, embedding)
        return self.head(F.silu(self.norm(x))).view_as(z)

    @property
    def inner(self) -> Inner:
        """The last block of the first third; its output is one token for all of z."""
        return Inner(self.blocks[(len(self.blocks) - 1) // 3], self.stem.out_features, self.sides)
