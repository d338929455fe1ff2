"""Autoregressive bijections: each number goes through a monotone function whose parameters depend on the numbers before it.

    y_i = f(x_i; parameters_i(x_1 ... x_{i-1}, c)),        log|det dy/dx| = sum_i log f'(x_i)

`forward` is one pass of a masked network (`ldm.bijection.made`). With affine f it is a masked autoregressive flow
(Papamakarios et al. 2017), with deep sigmoidal f a neural one (Huang et al. 2018). `inverse` finds the numbers one after the
other and inverts only the one whose turn it is: earlier ones are final, and of later ones nothing is known yet. The network
keeps what it was told (`Memory`), so the d steps together are the products of one pass. `Reversed` is a bijection the other
way round: an inverse autoregressive flow (Kingma et al. 2016), whose samples are one step and whose densities are d.

What makes it fail: d steps in a row for d numbers, which is what limits these flows to few; one order, which is why it is
reversed from layer to layer; and rounding, which d steps in a row and several layers magnify.

Sources:
    Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017), arXiv 1705.07057
    Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016), arXiv 1606.04934
    Huang et al., Neural Autoregressive Flows (2018), arXiv 1804.00779
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.bijection.base import Bijection, Map, uncast
from ldm.bijection.made import MADE
from ldm.bijection.transform.base import Transform
from ldm.types import Context, ContextShape


class Autoregressive(Bijection):
    """A masked network's parameters in a monotone function of each number of a map.

    Arguments:
        numbers: d = c h w of a map.
        transform: the monotone function.
        context: the widths of the context's parts.
        backwards: whether the last number comes first.
        width, depth: of the masked network.
    """

    def __init__(
        self,
        numbers: PositiveInt,
        transform: Transform,
        context: ContextShape,
        backwards: bool = False,
        width: PositiveInt = 256,
        depth: PositiveInt = 2,
    ):
        super().__init__()
        places = torch.arange(numbers)
        self.transform = transform
        self.network = MADE(places.flip(0) if backwards else places, transform.count, context, width, depth)

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(x):
            flat = x.float().flatten(1)
            y, log_slope = self.transform.forward(flat, self.network(flat, c))
        return y.view_as(x), log_slope.sum(1)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(y):
            numbers = y.float().flatten(1).unbind(1)
            memory, total = self.network.memory(len(y), c), y.new_zeros(len(y), dtype=torch.float32)
            x, found = numbers[0], list(numbers)
            for i in self.network.turns:
                x, log_slope = self.transform.inverse(numbers[i], self.network(x[:, None], c, memory)[:, :, 0])
                found[i], total = x, total + log_slope
        return torch.stack(found, 1).view_as(y), total


class Reversed(Bijection):
    """Another bijection the other way round.

    Arguments:
        around: the other one.
    """

    def __init__(self, around: Bijection):
        super().__init__()
        self.around = around

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return self.around.inverse(x, c)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return self.around(y, c)
