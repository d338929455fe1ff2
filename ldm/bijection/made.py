"""Masked networks: parameters for each of d numbers that depend on the numbers before it alone.

Numbers have the degrees 1 to d in their order, and hidden units degrees from 1 to d - 1. A weight between layers is kept where
the later unit's degree is at least the earlier one's, and to an output where its degree is greater (Germain et al. 2015,
section 3). One pass so gives the parameters of all d conditional distributions. The context enters every layer without a
mask, and the outputs as well, for the first number has nothing else.

Where numbers are found one after the other, a `Memory` keeps what each unit has been told so far. Once the number of degree k is
known, the hidden units of degree k are, too, layer by layer, and each adds its part to the units after it and is not asked
again. All d numbers so take the products of one pass, where d passes from the beginning would take d times as many.

What makes it fail: few hidden units for many numbers, where each degree has less than one; and first weights that are drawn for
all inputs where few are kept, so that the early numbers' units hardly hear theirs. Here a unit's weights have the deviation
gain / sqrt(its kept inputs), with the nonlinearity's gain, so that each layer's outputs begin as large as its inputs.

Sources:
    Germain et al., MADE: Masked Autoencoder for Distribution Estimation (2015), arXiv 1502.03509
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.nn.fixup import SMOOTH
from ldm.types import Context, ContextShape


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

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        return F.linear(x, self.weight * self.kept, self.bias)


@dataclass
class Memory:
    """What the units of a masked network have been told of the numbers so far.

    Fields:
        sums: of each layer, the head's last, (b, outputs), before the nonlinearity; final for units of known degrees.
        weights: of each layer, those of its inputs of each degree, (inputs, outputs).
        given: how many numbers have their parameters.
    """

    sums: list[Tensor]
    weights: list[tuple[Tensor, ...]]
    given: int = 0


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
        numbers, last = order + 1, max(1, len(order) - 1)
        hidden = torch.arange(width) % last + 1
        self.turns = order.argsort().tolist()
        self.units = [slice(k, None, last) for k in range(last)]  # of the degrees 1 to d - 1
        degrees = [numbers, *[hidden] * depth]
        layers = [MaskedLinear(after[:, None] >= before, SMOOTH.gain) for before, after in itertools.pairwise(degrees)]
        self.layers = nn.ModuleList(layers)
        self.head = MaskedLinear((numbers[:, None] > hidden).repeat(count, 1))
        self.contexts = nn.ModuleList()
        if context.tokens is not None:
            self.contexts.extend([nn.Linear(context.tokens, width) for _ in range(depth)])
            self.contexts.append(nn.Linear(context.tokens, count * len(order)))
        for layer in (self.head, *self.contexts[-1:]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def memory(self, rows: int, c: Context) -> Memory:
        """Of `rows` examples of which no number is known yet."""
        pooled = masked_mean(c.tokens, c.mask) if self.contexts else None
        units = [list(range(self.head.in_features))[own] for own in self.units]
        inputs = [[[number] for number in self.turns], *[units] * len(self.layers)]
        sums, weights = [], []
        for k, (layer, own) in enumerate(zip([*self.layers, self.head], inputs, strict=True)):
            sums.append((layer.bias if pooled is None else layer.bias + self.contexts[k](pooled)).expand(rows, -1))
            by_degree = (layer.weight * layer.kept)[:, list(itertools.chain(*own))].T
            weights.append(by_degree.split([len(each) for each in own]))
        return Memory(sums, weights)

    def forward(self, x: Float[Tensor, "b i"], c: Context, memory: Memory | None = None) -> Float[Tensor, "p b n"]:
        """Parameters of all numbers x (b, d), (p, b, d).

        With a memory, those of the next number in the order alone, (p, b, 1): x is then the number before it, (b, 1), of which
        the first call takes no notice; c is what the memory was made with.
        """
        if memory is not None:
            return self._next(x, memory)
        pooled = masked_mean(c.tokens, c.mask) if self.contexts else None
        y = x
        for k, layer in enumerate(self.layers):
            y = layer(y) if pooled is None else layer(y) + self.contexts[k](pooled)
            y = SMOOTH.function(y)
        y = self.head(y)
        if pooled is not None:
            y = y + self.contexts[-1](pooled)
        return self._by_number(y)

    def _next(self, x: Float[Tensor, "b 1"], memory: Memory) -> Float[Tensor, "p b 1"]:
        known, number = memory.given - 1, self.turns[memory.given]
        for k in range(len(memory.sums) if memory.given else 0):
            memory.sums[k] = torch.addmm(memory.sums[k], x, memory.weights[k][known])
            if k < len(self.layers):
                x = SMOOTH.function(memory.sums[k][:, self.units[known]])
        memory.given += 1
        return self._by_number(memory.sums[-1])[:, :, number, None]

    def _by_number(self, y: Float[Tensor, "b o"]) -> Float[Tensor, "p b d"]:
        return y.float().view(len(y), self.count, -1).transpose(0, 1)
