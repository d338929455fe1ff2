"""Masked networks: parameters for each of d numbers that depend on the numbers before it alone.

Numbers have the degrees 1 to d in their order, and hidden units degrees from 1 to d - 1. A weight between layers is kept where
the later unit's degree is at least the earlier one's, and to an output where its degree is greater (Germain et al. 2015,
section 3). One pass so gives the parameters of all d conditional distributions. The context enters every layer without a
mask, and the outputs as well, for the first number has nothing else.

What makes it fail: few hidden units for many numbers, where each degree has less than one; and first weights that are drawn for
all inputs where few are kept, so that the early numbers' units hardly hear theirs. Here a unit's weights have the deviation
gain / sqrt(its kept inputs), with the nonlinearity's gain, so that each layer's outputs begin as large as its inputs.

Sources:
    Germain et al., MADE: Masked Autoencoder for Distribution Estimation (2015), arXiv 1502.03509
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.nn.fixup import SMOOTH
from ldm.types import Context, ContextShape


class RowsLinear(nn.Linear):
    """A linear layer of which some outputs can be asked alone."""

    def forward(self, x: Float[Tensor, "b i"], rows: slice = slice(None)) -> Float[Tensor, "b o"]:
        """All outputs, or those of some rows."""
        return F.linear(x, self.weight[rows], self.bias[rows])


class MaskedLinear(nn.Linear):
    """A linear layer with some of its weights left out.

    Arguments:
        kept: (outputs, inputs), True for the weights that count.
        gain: deviation of an output's first weights, in units of 1 / sqrt(its kept inputs).
    """

    def __init__(self, kept: Tensor, gain: float = 1.0):
        super().__init__(kept.shape[1], kept.shape[0])
        self.register_buffer("kept", kept.float(), persistent=False)  # a product with booleans takes longer
        with torch.no_grad():
            self.weight.normal_().mul_(gain * self.kept.sum(1, keepdim=True).clamp(min=1).rsqrt())

    def forward(self, x: Float[Tensor, "b i"], rows: slice = slice(None)) -> Float[Tensor, "b o"]:
        """All outputs, or those of some rows."""
        return F.linear(x, self.weight[rows] * self.kept[rows], self.bias[rows])


class MADE(nn.Module):
    """d numbers (b, d) to p parameters of each, (p, b, d), zero at first; the parameters of a number depend on the context and
    on the numbers before it.

    Arguments:
        order: the place of each number, a permutation of 0 ... d - 1, (d,).
        count: p.
        context: the widths of the context's parts; the mean of its tokens enters.
        width: hidden units of a layer.
        depth: hidden layers.
    """

    def __init__(
        self,
        order: Int[Tensor, " d"],
        count: PositiveInt,
        context: ContextShape,
        width: PositiveInt = 256,
        depth: PositiveInt = 2,
    ):
        super().__init__()
        self.count = count
        numbers = order + 1
        hidden = torch.arange(width) % max(1, len(order) - 1) + 1
        degrees = [numbers, *[hidden] * depth]
        layers = [MaskedLinear(after[:, None] >= before, SMOOTH.gain) for before, after in itertools.pairwise(degrees)]
        self.layers = nn.ModuleList(layers)
        self.head = MaskedLinear((numbers[:, None] > hidden).repeat(count, 1))
        self.contexts = nn.ModuleList()
        if context.tokens is not None:
            self.contexts.extend([nn.Linear(context.tokens, width) for _ in range(depth)])
            self.contexts.append(RowsLinear(context.tokens, count * len(order)))
        for layer in (self.head, *self.contexts[-1:]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b d"], c: Context, number: int | None = None) -> Float[Tensor, "p b n"]:
        """Parameters of all numbers, or of one alone (n = 1)."""
        rows = slice(None) if number is None else slice(number, None, x.shape[1])
        pooled = masked_mean(c.tokens, c.mask) if self.contexts else None
        y = x
        for k, layer in enumerate(self.layers):
            y = layer(y) if pooled is None else layer(y) + self.contexts[k](pooled)
            y = SMOOTH.function(y)
        y = self.head(y, rows)
        if pooled is not None:
            y = y + self.contexts[-1](pooled, rows)
        return y.float().view(len(x), self.count, -1).transpose(0, 1)
