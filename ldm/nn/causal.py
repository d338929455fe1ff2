"""The causal transformer: what it gives for element i of a sequence depends on the elements before i alone, and on a context.

    tokens:    prefix_1 ... prefix_m   start   x_1   x_2  ...  x_(n-1)
    outputs:                           y_1     y_2   y_3  ...  y_n

The sequence is shifted by one behind a learnt start token, and token j attends to itself and to the tokens before it (Vaswani et
al. 2017, section 3.2.3), so that y_i is a function of x_1 ... x_(i-1). The context's tokens stand in front of the sequence, as a
prefix (Sun et al. 2024, section 3.2). The token that predicts element i carries the place of element i: by what is `added` to it,
and by a rotation of its queries and keys, so that attention depends on relative places (Su et al. 2021).

In sampling, elements come one by one. A `Memory` keeps the keys and values of all tokens so far (a key-value cache), so an
element costs one token's pass and not that of all tokens before it, and its size is known at the beginning.

It fails quietly where order is broken: a single token that sees itself makes the loss excellent and the samples worthless, so the
order is tested by gradients.

Sources:
    Vaswani et al., Attention Is All You Need (2017), arXiv 1706.03762
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), arXiv 2104.09864
    Sun et al., Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (2024), arXiv 2406.06525
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import FeedForward, rotated
from ldm.types import Context, Probability


@dataclass
class Kept:
    """The keys and values of one attention, (b, heads, length, e) each, of which the first `count` are there."""

    keys: Tensor
    values: Tensor
    count: int = 0

    def with_new(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the new ones at their end."""
        stop = self.count + k.shape[2]
        self.keys[:, :, self.count : stop] = k
        self.values[:, :, self.count : stop] = v
        self.count = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


@dataclass
class Memory:
    """What a causal transformer remembers of the elements that it was given: keys and values of each block, and how many
    outputs it has given."""

    blocks: list[Kept]
    given: int = 0


@dataclass(frozen=True)
class Places:
    """Where the n elements of a sequence stand.

    Fields:
        added: to the token that predicts each element, (1, n, width).
        rotation: cosines and sines by which its queries and keys are turned (`rotated`), (1, n, width / heads).
    """

    added: Float[Tensor, "1 n d"]
    rotation: Float[Tensor, "1 n e"]

    def __getitem__(self, elements: slice) -> Places:
        return Places(self.added[:, elements], self.rotation[:, elements])

    def reversed(self) -> Places:
        """Those of the sequence from its end to its beginning."""
        return Places(self.added.flip(1), self.rotation.flip(1))


class CausalBlock(nn.Module):
    """Attention to the tokens before and the gated feed-forward, each in a residual branch behind a layer norm.

    Arguments:
        width: of the tokens.
        heads: number of heads; it divides the width.
        expansion: width of the feed-forward, as a multiple of `width`.
        dropout: share of the activations that are left out in training.
    """

    def __init__(self, width: PositiveInt, heads: PositiveInt, expansion: PositiveInt = 3, dropout: Probability = 0.0):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed, self.dropout = FeedForward(width, expansion, dropout), nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        rotation: Float[Tensor, "1 n e"],
        mask: Bool[Tensor, "b 1 n m"] | None = None,
        kept: Kept | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, width) to tokens.

        Arguments:
            mask: which of the m tokens, those that are kept among them, each token attends to; without, those up to itself.
            kept: the tokens before, to which these are added.
        """
        parts = self.to_qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "b n (h e) -> b h n e", h=self.heads) for part in parts)
        q, k = rotated(q, rotation), rotated(k, rotation)
        if kept is not None:
            k, v = kept.with_new(k, v)
        causal = mask is None and q.shape[2] > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.dropout(self.to_out(rearrange(y, "b h n e -> b n (h e)")))
        return x + self.dropout(self.feed(self.feed_norm(x)))


class CausalTransformer(nn.Module):
    """Sequences (b, n, inputs) to (b, n, outputs), of which output i depends on the inputs before i and on the context's tokens.

    Arguments:
        inputs, outputs: numbers of an element, and of what is given for it.
        context: width of the context's tokens; None where there are none.
        width: of the tokens.
        depth: number of blocks.
        heads: number of heads; the width is a multiple of four times as many.
        expansion: width of the feed-forward, as a multiple of `width`.
        dropout: share of the activations that are left out in training.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        context: PositiveInt | None,
        width: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
        expansion: PositiveInt = 3,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        if width % (4 * heads):
            raise ValueError(
                f"{heads} heads, turned by two axes in pairs of channels, need a multiple of {4 * heads} as width; got {width}"
            )
        self.width, self.heads = width, heads
        self.stem = nn.Linear(inputs, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.to_prefix = None if context is None else nn.Linear(context, width)
        self.blocks = nn.ModuleList([CausalBlock(width, heads, expansion, dropout) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def memory(self, rows: int, length: int, c: Context) -> Memory:
        """An empty memory for `rows` sequences of `length` elements."""
        length += 0 if self.to_prefix is None else c.tokens.shape[1]
        shape = (2, rows, self.heads, length, self.width // self.heads)
        like = {"dtype": self.start.dtype, "device": self.start.device}
        return Memory([Kept(*torch.empty(shape, **like).unbind()) for _ in self.blocks])

    def forward(
        self, x: Float[Tensor, "b n i"], places: Places, c: Context, memory: Memory | None = None
    ) -> Float[Tensor, "b n o"]:
        """The outputs (b, n, outputs) of a whole sequence x (b, n, inputs).

        With a memory, the next output alone, (b, 1, outputs): x is then the element before it, (b, 1, inputs), of which the
        first call takes no notice; `places` are always those of the whole sequence.
        """
        if memory is None:
            tokens, first = torch.cat([self.start.expand(len(x), 1, -1), self.stem(x[:, :-1])], dim=1), True
        else:
            first = memory.given == 0
            places = places[memory.given : memory.given + 1]
            tokens = self.start.expand(len(x), 1, -1) if first else self.stem(x)
            memory.given += 1
        tokens, rotation = tokens + places.added, places.rotation
        if self.to_prefix is not None and first:
            prefix = self.to_prefix(c.tokens).to(tokens.dtype)
            tokens = torch.cat([prefix, tokens], dim=1)
            rotation = torch.cat([_unturned(rotation, prefix.shape[1]), rotation], dim=1)
        before = 0 if memory is None else memory.blocks[0].count
        mask = None if self.to_prefix is None else _attended(c.mask, tokens.shape[1], before + tokens.shape[1])
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, rotation, mask, None if memory is None else memory.blocks[i])
        return self.head(self.norm(tokens[:, -x.shape[1] :]))


def _attended(mask: Bool[Tensor, "b m"] | None, queries: int, keys: int) -> Bool[Tensor, "b 1 q k"] | None:
    """Which of the keys, the context's m at their beginning, the last tokens attend to: those up to themselves that count, and
    always themselves. None where all count; the only token of a context does."""
    if mask is None or mask.shape[1] == 1:
        return None
    counts = F.pad(mask, (0, keys - mask.shape[1]), value=True)[:, None, None]
    ones = torch.ones(queries, keys, dtype=torch.bool, device=mask.device)
    up_to, itself = ones.tril(keys - queries), ones.tril(keys - queries).triu(keys - queries)
    return (counts & up_to) | itself


def _unturned(rotation: Float[Tensor, "1 n e"], count: int) -> Float[Tensor, "1 m e"]:
    """The rotation by no angle of `count` tokens."""
    cos, sin = rotation[:, :1].expand(-1, count, -1).chunk(2, dim=-1)
    return torch.cat([torch.ones_like(cos), torch.zeros_like(sin)], dim=-1)
