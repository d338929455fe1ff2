"""Networks of coupling layers: any function of what a layer keeps and of the context, since they are never inverted.

`ConvNet` is residual (Dinh et al. 2016, section 3.3). Its normalisation is over the channels of each pixel, and not over the
batch, so that an example's density does not depend on the others; the context shifts and scales what is normalised, by a linear
map of the mean of its tokens, and its spatial map, of the same sides, is laid beside what comes. `Transformer` lets all pixels of
the map see each other (Kolesnikov et al. 2024, section 3); the context is added to its tokens. The last layer of both begins at
zero.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
    Kolesnikov et al., Jet: A Modern Transformer-Based Normalizing Flow (2024), arXiv 2412.15129
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import TransformerBlock, masked_mean
from ldm.nn.norm import Rms
from ldm.nn.resnet import ResBlock
from ldm.types import Context, ContextShape, Probability


class CouplingNetwork(nn.Module, ABC):
    """A network of maps, conditioned on a context. A new one writes `forward`, and begins at zero.

    Its constructor takes `inputs`, `outputs`, `sides` and `context`: channels, height and width of the maps, and the widths of
    the context's parts.
    """

    @abstractmethod
    def forward(self, x: Float[Tensor, "b i h w"], c: Context) -> Float[Tensor, "b o h w"]:
        """Maps (b, inputs, h, w) to maps (b, outputs, h, w)."""


MakesNetwork: TypeAlias = Callable[..., CouplingNetwork]
"""Makes a network, given `inputs`, `outputs`, `sides` and `context`: one of the classes below, or a partial of one."""


def _pooled(c: Context) -> Float[Tensor, "b d"] | None:
    return None if c.tokens is None else masked_mean(c.tokens, c.mask)


class ConvNet(CouplingNetwork):
    """Residual blocks of 3x3 convolutions; on maps of one pixel, of 1x1 convolutions.

    Arguments:
        inputs, outputs: channels of the maps; the coupling gives them.
        sides: height and width of the maps.
        context: the widths of the context's parts.
        width: channels inside.
        depth: number of residual blocks.
        dropout: inside each block.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        sides: tuple[PositiveInt, PositiveInt],
        context: ContextShape,
        *,
        width: PositiveInt = 64,
        depth: PositiveInt = 2,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        kernel = 1 if tuple(sides) == (1, 1) else 3
        self.stem = nn.Conv2d(inputs + (context.spatial or 0), width, kernel, padding=kernel // 2)
        options = {"embedding": context.tokens, "norm": Rms, "scale_shift": True, "dropout": dropout, "kernel": kernel}
        self.blocks = nn.ModuleList(ResBlock(width, width, **options) for _ in range(depth))
        self.norm, self.head = Rms(width), nn.Conv2d(width, outputs, kernel, padding=kernel // 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "b i h w"], c: Context) -> Float[Tensor, "b o h w"]:
        h, embedding = self.stem(x if c.spatial is None else torch.cat([x, c.spatial], 1)), _pooled(c)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(F.silu(self.norm(h)))


class Transformer(CouplingNetwork):
    """Blocks of attention over the pixels of the map, each a token with a learnt position.

    Arguments:
        inputs, outputs: channels of the maps; the coupling gives them.
        sides: height and width of the maps, which have to be these.
        context: the widths of the context's parts.
        width: of a token.
        depth: number of blocks.
        heads: of attention; they divide the width.
        dropout: inside each block.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        sides: tuple[PositiveInt, PositiveInt],
        context: ContextShape,
        *,
        width: PositiveInt = 128,
        depth: PositiveInt = 2,
        heads: PositiveInt = 4,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.positions = nn.Parameter(0.02 * torch.randn(sides[0] * sides[1], width))
        self.embed = None if context.tokens is None else nn.Linear(context.tokens, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout=dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "b i h w"], c: Context) -> Float[Tensor, "b o h w"]:
        h = self.stem(rearrange(x, "b i h w -> b (h w) i")) + self.positions
        if self.embed is not None:
            h = h + self.embed(_pooled(c))[:, None]
        for block in self.blocks:
            h = block(h)
        return rearrange(self.head(self.norm(h)), "b (h w) o -> b o h w", h=x.shape[2])
