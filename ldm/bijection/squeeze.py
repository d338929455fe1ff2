"""The squeeze: 2 x 2 pixels of c channels become one pixel of 4 c channels (Dinh et al. 2016, section 3.6). Its log-determinant
is 0.

The four pixels come one after the other, with all their channels: the first half of the channels is the upper row of every
2 x 2 pixels, the second half the lower row.

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ldm.bijection.base import Bijection, Map
from ldm.types import Context


class Squeeze(Bijection):
    """Maps (b, c, h, w) to (b, 4 c, h / 2, w / 2); h and w have to be even."""

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return rearrange(x, "b c (h p) (w q) -> b (p q c) h w", p=2, q=2), x.new_zeros(x.shape[0])

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        return rearrange(y, "b (p q c) h w -> b c (h p) (w q)", p=2, q=2), y.new_zeros(y.shape[0])
