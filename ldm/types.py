"""Types that all parts share: images, latents and times, and the context that samples are conditioned on.

An image `x` has numbers in [-1, 1], a latent `z` has unit variance in each channel, and a context `c` holds what a sample is
conditioned on. A context carries the learnt "no condition" with it, so that the condition can be dropped (classifier-free
guidance, Ho and Salimans 2022) without knowing which conditioner made it.

Sources:
    Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv 2207.12598
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

Image: TypeAlias = Float[Tensor, "b c h w"]
Latent: TypeAlias = Float[Tensor, "b z lh lw"]
Codes: TypeAlias = Int[Tensor, "b lh lw"]
Time: TypeAlias = Float[Tensor, " b"]
Times: TypeAlias = Float[Tensor, " b *times"]

Reads: TypeAlias = Literal["latents", "pixels", "codes"]
"""What a prior models: whitened latents; images as they are, of 8 bits in [-1, 1]; or the codes of a vector quantiser."""

PARTS = ("tokens", "mask", "spatial")
"""Of a context, beside its "no condition"."""

Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ContextShape:
    """The widths of a context's parts, for which a backbone is built.

    Fields:
        tokens: width of the tokens; None where there are none.
        spatial: channels of the spatial map; None where there is none.
    """

    tokens: int | None = None
    spatial: int | None = None


@dataclass(frozen=True)
class Context:
    """What samples are conditioned on. Every part is optional, and `Context()` means no condition.

    Fields:
        tokens: (b, n, d), for attention.
        mask: (b, n), True for the tokens that count.
        spatial: (b, k, h, w), a map of the latent's size that is concatenated to it.
        empty: the learnt "no condition", with the same parts and a batch size of b or 1.
    """

    tokens: Float[Tensor, "b n d"] | None = None
    mask: Bool[Tensor, "b n"] | None = None
    spatial: Float[Tensor, "b k h w"] | None = None
    empty: Context | None = None

    @property
    def shape(self) -> ContextShape:
        """The widths of the parts."""
        return ContextShape(
            None if self.tokens is None else self.tokens.shape[-1],
            None if self.spatial is None else self.spatial.shape[1],
        )

    def null(self) -> Context:
        """The same batch with "no condition" in place of every condition."""
        if self.empty is None:
            return self
        parts = {}
        for name in PARTS:
            own, empty = getattr(self, name), getattr(self.empty, name)
            parts[name] = None if own is None else empty.expand_as(own)
        return Context(**parts, empty=self.empty)

    def drop(self, p: float, u: Float[Tensor, " b"], parts: tuple[str, ...] = PARTS) -> Context:
        """The context with "no condition" for every example whose uniform number u, (b,), is below p; in some `parts` alone
        where these are named."""
        if self.empty is None:
            return self
        null, dropped = self.null(), u < p
        found = {name: getattr(self, name) for name in parts if getattr(self, name) is not None}
        for name, own in found.items():
            found[name] = torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), getattr(null, name), own)
        return replace(self, **found)

    def away_from(self, other: Context) -> Context:
        """The same batch with `other`, a context of one example, in the place of "no condition". Classifier-free guidance
        then moves away from it (a negative prompt). The shorter one is padded with tokens that do not count.
        """
        if self.tokens is None or other.tokens is None:
            return replace(self, empty=other)
        n = max(self.tokens.shape[1], other.tokens.shape[1])
        return replace(self._padded(n), empty=other._padded(n))

    def _padded(self, n: int) -> Context:
        """The context padded to n tokens; the mask is False for the added ones."""
        missing = n - self.tokens.shape[1]
        mask = torch.ones_like(self.tokens[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        return replace(self, tokens=F.pad(self.tokens, (0, 0, 0, missing)), mask=F.pad(mask, (0, missing)))

    def __getitem__(self, rows: slice) -> Context:
        """The context of the examples `rows` of the batch."""
        return self._map(lambda part: part[rows])

    def to(self, device: torch.device | str) -> Context:
        """The context on a device."""
        empty = None if self.empty is None else self.empty.to(device)
        moved = self._map(lambda part: part.to(device))
        return Context(moved.tokens, moved.mask, moved.spatial, empty)

    def _map(self, function) -> Context:
        parts = [None if part is None else function(part) for part in (self.tokens, self.mask, self.spatial)]
        return Context(*parts, empty=self.empty)

    @staticmethod
    def cat(contexts: Sequence[Context]) -> Context:
        """Several contexts as one batch, so that guidance can evaluate the backbone once instead of twice. Where they have not
        the same number of tokens, the shorter ones are padded with tokens that do not count."""
        lengths = {context.tokens.shape[1] for context in contexts if context.tokens is not None}
        if len(lengths) > 1:
            contexts = [context._padded(max(lengths)) for context in contexts]
        parts = {}
        for name in PARTS:
            own = [getattr(context, name) for context in contexts]
            parts[name] = None if own[0] is None else torch.cat(own)
        return Context(**parts, empty=contexts[0].empty)
