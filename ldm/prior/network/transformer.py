"""A causal transformer over the positions of a map, in row-major order (ldm.nn.causal).

Places are rotary along both axes (ldm.backbone.position), with the sines and cosines of row and column added, so that a token
also knows where on the canvas it is.

Source: Sun et al., Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (2024), arXiv 2406.06525.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.backbone.position import Rotary, SinCos
from ldm.nn.causal import CausalTransformer, Memory, Places
from ldm.prior.network.base import Network
from ldm.types import Context, ContextShape, Probability


class Transformer(Network):
    """A causal transformer with a token for each position and, before them, the context's tokens.

    Arguments:
        inputs, outputs: numbers at a position of the map that comes and of the map that is given; the prior gives them.
        context: the widths of the context's parts; the prior gives them.
        width: of a token; a multiple of four times the heads.
        depth: number of blocks.
        heads: number of heads.
        expansion: width of the feed-forward, as a multiple of `width`.
        dropout: share of the activations that are left out in training.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        context: ContextShape,
        width: PositiveInt = 256,
        depth: PositiveInt = 8,
        heads: PositiveInt = 4,
        expansion: PositiveInt = 3,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        shape = (inputs, outputs, context.tokens, width, depth, heads, expansion, dropout)
        self.transformer = CausalTransformer(*shape)

    def memory(self, shape: tuple[int, int, int], c: Context) -> tuple[Memory, Places]:
        rows, height, width = shape
        own = self.transformer
        places = canvas(height, width, own.width, own.heads, own.start.device)
        return own.memory(rows, height * width, c), places

    def forward(
        self, e: Float[Tensor, "b i h w"], c: Context, memory: tuple[Memory, Places] | None = None
    ) -> Float[Tensor, "b o h w"]:
        height, width = e.shape[2:]
        own = self.transformer
        kept, places = memory or (None, canvas(height, width, own.width, own.heads, e.device))
        y = own(rearrange(e, "b i h w -> b (h w) i"), places, c, kept)
        return rearrange(y, "b (h w) o -> b o h w", h=height)


def canvas(height: int, width: int, tokens: int, heads: int, device: torch.device) -> Places:
    """The places of a map (h, w), in row-major order, for `tokens` of that width and so many heads."""
    added = SinCos(tokens, heads).added(height, width, device)
    return Places(added, Rotary(tokens, heads).rotation(height, width, device))
