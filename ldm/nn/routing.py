"""Token routing: in training, some tokens go around the middle layers of a transformer (TREAD, arXiv 2501.04765, section 3).

A random share of each example's tokens skips the layers from `before` on and is put back, as it was, where `after` layers are
left. The layers between cost less in proportion (attention, more), the loss is still of all tokens, and sampling uses
the whole network: out of training it is exactly nothing.

The choice is drawn from torch's own generator, as dropout's is. A stage seeds that for each update and rank, so a resumed run
is the uninterrupted one to the bit; but another number of ranks routes other tokens.
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
    """
    Arguments:
        skipped: share of the tokens that goes around.
        before, after: layers that all tokens pass, at the beginning and at the end.
    """

    def __init__(self, skipped: Share = 0.5, before: NonNegativeInt = 1, after: NonNegativeInt = 1):
        self.skipped, self.before, self.after = skipped, before, after

    def span(self, depth: int) -> tuple[int, int]:
        """The first layer that tokens go around and the first that they do not; ValueError where there is none."""
        if self.before + self.after >= depth:
            raise ValueError(
                f"routing leaves {self.before} + {self.after} layers to all tokens and there are only {depth}: "
                "no layer is skipped; take fewer, or more depth"
            )
        return self.before, depth - self.after

    def kept(self, x: Float[Tensor, "b n d"]) -> Int[Tensor, "b k"]:
        """Which tokens do not go around, at random and at least one."""
        count = max(1, round((1 - self.skipped) * x.shape[1]))
        return torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :count]


def taken(x: Float[Tensor, "#b n d"], kept: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens `kept` of each example."""
    rows = x.expand(len(kept), -1, -1)
    return rows.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))


def put_back(
    x: Float[Tensor, "b n d"], part: Float[Tensor, "b k d"], kept: Int[Tensor, "b k"]
) -> Float[Tensor, "b n d"]:
    """x with `part` at the places `kept`."""
    return x.scatter(1, kept[..., None].expand_as(part), part.to(x.dtype))
