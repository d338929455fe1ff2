"""Token routing: in training, some tokens skip the middle layers of a transformer (TREAD, Krause et al. 2025, section 3).

A random share of each example's tokens passes the first `before` layers, skips the middle ones, and joins the others again,
unchanged, for the last `after` layers. The middle layers then cost less in proportion to the number of their tokens, and
attention in proportion to its square. The loss is still over all tokens. Sampling is not affected: outside of training all
tokens pass all layers.

The tokens are drawn from torch's own generator, as dropout is. A stage seeds it for each update and rank, so a resumed run
equals an uninterrupted one to the bit, but with another number of ranks other tokens are drawn.

Sources:
    Krause et al., TREAD: Token Routing for Efficient Architecture-agnostic Diffusion Training (2025),
        arXiv 2501.04765
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ldm.constructed import Constructed

Share = Annotated[float, Field(gt=0, lt=1)]


class Routing(Constructed):
    """How many tokens skip which layers of a transformer in training.

    Arguments:
        skipped: share of the tokens that skip the middle layers.
        before, after: numbers of layers at the beginning and at the end that all tokens pass.
    """

    def __init__(self, skipped: Share = 0.5, before: NonNegativeInt = 1, after: NonNegativeInt = 1):
        self.skipped, self.before, self.after = skipped, before, after

    def span(self, depth: int) -> tuple[int, int]:
        """Of `depth` layers, the number of the first that is skipped and of the first behind it that is not. Raises
        ValueError where no layer is skipped."""
        if self.before + self.after >= depth:
            raise ValueError(
                f"routing leaves {self.before} + {self.after} layers to all tokens and there are only {depth}: "
                "no layer is skipped; take fewer, or more depth"
            )
        return self.before, depth - self.after

    def kept(self, x: Float[Tensor, "b n d"]) -> Int[Tensor, "b k"]:
        """The numbers of the tokens that skip nothing, (b, k) of tokens x (b, n, d), drawn at random; k is at least 1."""
        count = max(1, round((1 - self.skipped) * x.shape[1]))
        return torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :count]


def taken(x: Float[Tensor, "#b n d"], kept: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens with the numbers `kept` (b, k) of each example of x (b or 1, n, d), (b, k, d)."""
    rows = x.expand(len(kept), -1, -1)
    return rows.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))


def put_back(
    x: Float[Tensor, "b n d"], part: Float[Tensor, "b k d"], kept: Int[Tensor, "b k"]
) -> Float[Tensor, "b n d"]:
    """x (b, n, d) with the tokens of the numbers `kept` (b, k) replaced by those of `part` (b, k, d)."""
    return x.scatter(1, kept[..., None].expand_as(part), part.to(x.dtype))
