"""Autoregressive bijections: each number goes through a monotone function whose parameters depend on the numbers before it.

    y_i = f(x_i; parameters_i(x_1 ... x_{i-1}, c)),        log|det dy/dx| = sum_i log f'(x_i)

`forward` is one pass of a masked network (`ldm.bijection.made`). With affine f it is a masked autoregressive flow
(Papamakarios et al. 2017), with deep sigmoidal f a neural one (Huang et al. 2018). `inverse` finds the numbers one after the
other, each by a pass of its own, and inverts only the one whose turn it is: earlier ones are final, and of later ones nothing
is known yet. `Reversed` is a bijection the other way round: an inverse autoregressive flow (Kingma et al. 2016), whose samples
are one pass and whose densities are d.

What makes it fail: d passes for d numbers, which is what limits these flows to few; one order, which is why it is reversed from
layer to layer; and rounding, which d steps in a row and several layers magnify.

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
from ldm.bijection.transform import Transform
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
        self.turns = list(reversed(range(numbers)) if backwards else range(numbers))
        self.transform = transform
        order = places.flip(0) if backwards else places
        self.network = MADE(order, transform.count, context, width, depth)

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(x):
            flat = x.float().flatten(1)
            y, log_slope = self.transform.forward(flat, self.network(flat, c))
        return y.view_as(x), log_slope.sum(1)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        with uncast(y):
            flat = y.float().flatten(1)
            found, total = torch.zeros_like(flat), flat.new_zeros(len(flat))
            turn = torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
            for i in self.turns:
                x, log_slope = self.transform.inverse(flat[:, i], self.network(found, c, i)[:, :, 0])
                found, total = torch.where(turn[i], x[:, None], found), total + log_slope
        return found.view_as(y), total


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
