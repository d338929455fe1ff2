"""Networks of autoregressive priors: maps to maps of the same size, of which a position depends on those before it alone.

Positions are in row-major order. What the numbers of the maps mean is the head's (ldm.prior.head).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ldm.types import Context


class Network(nn.Module, ABC):
    """A map e (b, inputs, h, w) to one (b, outputs, h, w) whose position i is a function of e at positions before i, and of
    the context.

    A new one takes (inputs, outputs, context) and writes `forward` and `memory`.
    """

    @abstractmethod
    def memory(self, shape: tuple[int, int, int], c: Context) -> Any:
        """What `forward` needs to give the positions of maps (b, h, w) one by one; of a size that does not grow."""

    @abstractmethod
    def forward(self, e: Float[Tensor, "b i h w"], c: Context, memory: Any | None = None) -> Float[Tensor, "b o h w"]:
        """All outputs (b, outputs, h, w) of a map e (b, inputs, h, w).

        With a memory, the next output alone, (b, outputs, 1, 1): e is then what stands at the position before it, (b, inputs,
        1, 1), of which the first call takes no notice.
        """
