"""A Gaussian mixture of latents, of all numbers of a latent jointly or at each position by itself.

    p(z | c) = sum_k w_k(c) N(z; m_k, s_k^2)                          over="latent"
    p(z | c) = prod_ij sum_k w_kij(c) N(z_ij; m_kij, s_kij^2)         over="position", z_ij the channels at row i, column j

with diagonal covariances. The context moves the weights: their logits are learnt numbers and a linear map of the mean of its
tokens. The density is exact and a sample is one draw, so the mixture is the plainest prior that is fitted at all: what a
deeper one adds, it adds to this.

Likelihood of a mixture has no maximum (a component that sits on one example has all the density it likes), so deviations have
a floor. Components begin as clusters of the first training batches (Arthur and Vassilvitskii, k-means++: The Advantages of
Careful Seeding, 2007), since gradients move a mixture whose components are alike very slowly apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.nn.attention import masked_mean
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.prior.stepwise import Grid, Laws, Stepwise, mixture_laws
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent

_EXAMPLES = 4096  # latents at most, or positions of latents, that components begin from


class Mixture(Prior, Likelihood, Stepwise):
    """A mixture of Gaussians with diagonal covariances, whose weights may depend on the context.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        components: K.
        over: what one component describes: a whole `latent`, or the channels at one `position`, independently of the others.
        floor: the least deviation of a component, where latents have deviation 1.
    """

    kind: Literal["exact"] = "exact"

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        components: PositiveInt = 64,
        over: Literal["latent", "position"] = "latent",
        floor: PositiveFloat = 0.1,
    ):
        super().__init__(latents, context)
        self.components, self.over, self.floor = components, over, floor
        self.means = nn.Parameter(torch.randn(components, *latents.shape))
        self.raw_deviations = nn.Parameter(
            torch.full_like(self.means, _inverse_softplus(1 - floor if floor < 1 else 1.0))
        )
        self.logits = nn.Parameter(torch.zeros(components, *(latents.shape[1:] if over == "position" else (1, 1))))
        self.by_context = None if context.tokens is None else nn.Linear(context.tokens, components)

    @property
    def deviations(self) -> Float[Tensor, "k c h w"]:
        """s, above the floor."""
        return self.floor + F.softplus(self.raw_deviations)

    def log_weights(self, c: Context) -> Float[Tensor, "b k h w"]:
        """log w(c); of one row where there is no context, and one position where components describe whole latents."""
        logits = self.logits[None]
        if self.by_context is not None:
            logits = logits + self.by_context(masked_mean(c.tokens, c.mask))[:, :, None, None]
        return logits.log_softmax(1)

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,)."""
        dims = (2, 3, 4) if self.over == "latent" else (2,)
        deviations = self.deviations
        away = (z[:, None].float() - self.means) / deviations
        log_density = -0.5 * (away.square() + 2 * deviations.log() + math.log(2 * math.pi)).sum(dims)
        if self.over == "latent":
            log_density = log_density[:, :, None, None]
        return (self.log_weights(c) + log_density).logsumexp(1).sum((1, 2))

    def laws(self, c: Context, grid: Grid | None = None) -> Laws:
        log_weights = rearrange(self.log_weights(c)[0], "k h w -> (h w) k")
        shape = "k c h w -> 1 k (h w c)" if self.over == "latent" else "k c h w -> (h w) k c"
        means, deviations = (rearrange(each, shape) for each in (self.means, self.deviations))
        for law in zip(log_weights, means, deviations, strict=True):
            yield from mixture_laws(*law, grid)

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return {"nll per dimension": -self.log_prob(z, c).mean() / self.latents.numbers}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        weights = self.log_weights(c).exp()
        u = random.uniform("component", tuple(weights.shape[2:]))[:, None]
        chosen = (u >= weights.cumsum(1)).sum(1, keepdim=True).clamp(max=self.components - 1)  # (b, 1, h, w)
        index = chosen.expand(-1, *shape[1:])[:, None]
        means, deviations = (
            rearrange(each.expand(shape[0], *each.shape).gather(1, index), "b 1 c h w -> b c h w")
            for each in (self.means, self.deviations)
        )
        return means + deviations * random.normal("prior", tuple(shape[1:]))

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Latent, Context]]) -> None:
        """Components are clusters of the first latents, or of what stands at their positions; logits are the clusters' sizes."""
        rows: list[Tensor] = []
        for z, _ in batches:
            rows.append(z.flatten(1) if self.over == "latent" else rearrange(z, "b c h w -> (b h w) c"))
            if sum(map(len, rows)) >= _EXAMPLES:
                break
        examples = torch.cat(rows)[:_EXAMPLES].double().cpu()
        means, deviations, shares = _clusters(examples, self.components)
        shape = self.latents.shape if self.over == "latent" else (self.latents.shape[0], 1, 1)
        raw = _inverse_softplus_of((deviations - self.floor).clamp(min=1e-3))
        self.means.copy_(means.view(-1, *shape).expand_as(self.means))
        self.raw_deviations.copy_(raw.view(-1, *shape).expand_as(self.means))
        self.logits.copy_(shares.log().view(-1, 1, 1).expand_as(self.logits))


def _clusters(examples: Float[Tensor, "n d"], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means and deviations (k, d) of k-means' clusters and their shares (k,); a cluster of few examples has the deviations of
    all."""
    from scipy.cluster.vq import kmeans2  # here, because it takes a while to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty clusters, as fewer different examples than clusters leave
        centres, labels = kmeans2(examples.numpy(), count, minit="++", seed=0, missing="warn")
    labels = torch.from_numpy(labels).long()
    counts = torch.bincount(labels, minlength=count).double()
    means = torch.from_numpy(centres)
    squares = torch.zeros_like(means).index_add_(0, labels, (examples - means[labels]).square())
    overall = examples.std(0, correction=0)
    deviations = torch.where(counts[:, None] > 8, (squares / counts.clamp(min=1)[:, None]).sqrt(), overall)
    return means, deviations, (counts + 1) / (counts.sum() + count)


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


def _inverse_softplus_of(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))
