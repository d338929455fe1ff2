"""The coupling layer: some numbers stay, the others are moved one by one, by functions whose parameters a network makes of those
that stay (Dinh et al. 2016, equations 4 and 5).

    y_A = x_A,        y_B = g(x_B; network(x_A, c)),        log|det| = sum_B log g'

The Jacobian is triangular whatever the network, and to invert the layer the network is only asked again. The network's last
layer begins at zero, and so the layer begins as the identity.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ldm.bijection.base import Bijection, Map
from ldm.bijection.mask import Mask
from ldm.bijection.network import MakesNetwork
from ldm.bijection.transform.base import Transform
from ldm.types import Context, ContextShape


class Coupling(Bijection):
    """Moves the numbers that a mask does not keep, given those that it keeps and the context.

    Arguments:
        mask: what is kept.
        transform: how a number is moved.
        network: makes the network of its parameters.
        sides: height and width of the maps.
        context: the widths of the context's parts.
    """

    def __init__(
        self, mask: Mask, transform: Transform, network: MakesNetwork, sides: tuple[int, int], context: ContextShape
    ):
        super().__init__()
        self.mask, self.transform = mask, transform
        outputs = transform.count * mask.outputs
        self.network = network(inputs=mask.inputs, outputs=outputs, sides=sides, context=context)

    def _asked(self, x: Map, c: Context) -> Float[Tensor, "p b k h w"]:
        parameters = self.network(self.mask.shown(x), c).float()
        return rearrange(parameters, "b (p k) h w -> p b k h w", p=self.transform.count)

    def _counted(self, x: Map, log: Map) -> Float[Tensor, " b"]:
        return self.mask.put(torch.zeros_like(x), log).flatten(1).sum(1)

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        y, log = self.transform.forward(self.mask.moved(x), self._asked(x, c))
        return self.mask.put(x, y), self._counted(x, log)

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        x, log = self.transform.inverse(self.mask.moved(y), self._asked(y, c))
        return self.mask.put(y, x), self._counted(y, log)
