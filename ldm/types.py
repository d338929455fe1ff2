"""The words that every part of the house shares: tensors by name, and what a sample is conditioned on.

An image `x` lies in [-1, 1]; a latent `z` has unit variance per channel; a context `c` holds what a sample is
conditioned on. A context travels with the learned 'no condition' beside it, so that dropping it (classifier-free
guidance, arXiv 2207.12598) needs no knowledge of where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

Image: TypeAlias = Float[Tensor, "b c h w"]
Latent: TypeAlias = Float[Tensor, "b z lh lw"]
Codes: TypeAlias = Int[Tensor, "b lh lw"]
Time: TypeAlias = Float[Tensor, " b"]

Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ContextShape:
    """What a backbone has to be able to read: the width of tokens and the channels of a spatial map, or None."""

    tokens: int | None = None
    spatial: int | None = None


@dataclass(frozen=True)
class Context:
    """What a sample is conditioned on; every part is optional and `Context()` is unconditional.

    tokens (b, n, d) with mask (b, n), True where a token counts; spatial (b, k, h, w); `empty` is the learned
    'no condition' of the same shapes, of batch size b or 1.
    """

    tokens: Float[Tensor, "b n d"] | None = None
    mask: Bool[Tensor, "b n"] | None = None
    spatial: Float[Tensor, "b k h w"] | None = None
    empty: Context | None = None

    @property
    def shape(self) -> ContextShape:
        """What a backbone has to be able to read to take it."""
        return ContextShape(
            None if self.tokens is None else self.tokens.shape[-1],
            None if self.spatial is None else self.spatial.shape[1],
        )

    def null(self) -> Context:
        """The same batch without its condition."""
        if self.empty is None:
            return self
        parts = {}
        for name in ("tokens", "mask", "spatial"):
            own, empty = getattr(self, name), getattr(self.empty, name)
            parts[name] = None if own is None else empty.expand_as(own)
        return Context(**parts, empty=self.empty)

    def drop(self, p: float, u: Float[Tensor, " b"]) -> Context:
        """Null where the uniform number `u` of an example is below `p`."""
        if self.empty is None:
            return self
        null, dropped = self.null(), u < p
        parts = {}
        for name in ("tokens", "mask", "spatial"):
            own = getattr(self, name)
            if own is None:
                parts[name] = None
            else:
                parts[name] = torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), getattr(null, name), own)
        return Context(**parts, empty=self.empty)

    def away_from(self, other: Context) -> Context:
        """The same batch with `other`, of one example, in the place of 'no condition': what guidance moves away from.

        Where one has fewer tokens than the other, it gets more that do not count.
        """
        if self.tokens is None or other.tokens is None:
            return replace(self, empty=other)
        n = max(self.tokens.shape[1], other.tokens.shape[1])
        return replace(self._padded(n), empty=other._padded(n))

    def _padded(self, n: int) -> Context:
        """The tokens and more, n in all, of which the mask says that they do not count."""
        missing = n - self.tokens.shape[1]
        mask = torch.ones_like(self.tokens[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        return replace(self, tokens=F.pad(self.tokens, (0, 0, 0, missing)), mask=F.pad(mask, (0, missing)))

    def __getitem__(self, rows: slice) -> Context:
        """The examples `rows` of the batch."""
        return self._map(lambda part: part[rows])

    def to(self, device: torch.device | str) -> Context:
        empty = None if self.empty is None else self.empty.to(device)
        moved = self._map(lambda part: part.to(device))
        return Context(moved.tokens, moved.mask, moved.spatial, empty)

    def _map(self, function) -> Context:
        parts = [None if part is None else function(part) for part in (self.tokens, self.mask, self.spatial)]
        return Context(*parts, empty=self.empty)

    @staticmethod
    def cat(contexts: Sequence[Context]) -> Context:
        """One batch of several: how guidance asks the backbone once and not twice."""
        parts = {}
        for name in ("tokens", "mask", "spatial"):
            own = [getattr(context, name) for context in contexts]
            parts[name] = None if own[0] is None else torch.cat(own)
        return Context(**parts, empty=contexts[0].empty)
