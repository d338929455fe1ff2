"""Codes of a vector quantiser, each position by itself: the plainest prior of codes.

    p(k | c) = prod_ij softmax(l_ij + W c)_{k_ij}

with logits l_ij of each position, which begin as the counts of the first training batches, and a linear map of the mean of the
context's tokens. The density is exact; what depends on other positions, as any shape does, it cannot say, so it is what
autoregressive priors are measured against.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.prior.stepwise import Grid, Laws, Stepwise
from ldm.random import Random
from ldm.types import Codes, Context, ContextShape

_EXAMPLES = 10_000  # that are counted


class Categorical(Prior, Likelihood, Stepwise):
    """Codes that are independent of each other given the context: a table of logits for each position.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        temperature: that logits are divided by in sampling: below 1, codes that are rare become rarer.
    """

    reads = "codes"
    DRAWING: ClassVar = ("temperature",)
    kind: Literal["exact"] = "exact"

    def __init__(self, latents: Latents, context: ContextShape, temperature: PositiveFloat = 1.0):
        super().__init__(latents, context)
        self.temperature = temperature
        self.logits = nn.Parameter(torch.zeros(latents.codes, *latents.shape[1:]))
        self.by_context = None if context.tokens is None else nn.Linear(context.tokens, latents.codes, bias=False)

    def _logits(self, c: Context) -> Float[Tensor, "b k lh lw"]:
        """Of one row where there is no context."""
        logits = self.logits[None]
        if self.by_context is None:
            return logits
        return logits + self.by_context(masked_mean(c.tokens, c.mask))[:, :, None, None]

    def log_prob(self, z: Codes, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,)."""
        log_p = self._logits(c).log_softmax(1)
        return log_p.expand(len(z), *log_p.shape[1:]).gather(1, z[:, None]).sum((1, 2, 3))

    def laws(self, c: Context, grid: Grid | None = None) -> Laws:
        p = self._logits(c)[0].softmax(0).flatten(1)
        for i in range(p.shape[1]):
            yield p[:, i]

    def loss(self, z: Codes, c: Context, random: Random | None = None) -> Terms:
        return {"nll per dimension": -self.log_prob(z, c).mean() / self.latents.numbers}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Codes:
        random = random or Random.fresh(shape[0])
        share = (self._logits(c) / self.temperature).softmax(1).cumsum(1)
        u = random.uniform("code", tuple(shape[1:]))[:, None]
        return (u >= share).sum(1).clamp(max=self.latents.codes - 1)

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Codes, Context]]) -> None:
        """Logits are the logarithms of how often each code stood at each position, one added to every count."""
        counts, seen = torch.ones_like(self.logits), 0
        for z, _ in batches:
            counts += F.one_hot(z, self.latents.codes).sum(0).permute(2, 0, 1)
            seen += len(z)
            if seen >= _EXAMPLES:
                break
        self.logits.copy_(counts.log())
