"""Variational dequantisation: the noise that makes numbers of 8-bit pixels is learnt with the prior that models them.

A pixel is drawn from the width w of its level, x' = x + w (v - 1/2), 0 < v < 1. With v uniform (ldm.autoencoder.dequantised) a
prior of x' has to fill each level evenly, edges and all, which costs a smooth density dearly. With v drawn from a law q(v | x, c)
of its own (Ho et al. 2019, section 3.1)

    log P(x | c)  >=  E_q [log p(x' | c) + d log w - log q(v | x, c)],

which is tight where q is the prior's own posterior within the level; uniform noise is the q of density 1. Both are trained on
this bound. Here v = sigmoid(f(e; x, c)) of normal e, with f a few couplings of checkerboards (ldm.bijection.coupling) whose
networks see the image beside the noise, so

    log q(v | x, c) = log N(e) - log|det df/de| - sum log sigmoid'(f).

What makes it fail: q learns no faster than the prior, so early on it is noise of a wrong shape; and a bound is all there is, of
which draws=K of ldm.metric.bits_per_dim is the tighter one.

Sources:
    Ho et al., Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design (2019),
        arXiv 1902.00275
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.autoencoder.dequantised import width_of
from ldm.bijection.chain import Chain
from ldm.bijection.coupling import Coupling
from ldm.bijection.mask import Checkerboard
from ldm.bijection.network import ConvNet, MakesNetwork
from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.base import Transform
from ldm.prior.base import Latents, Likelihood, Prior, Terms
from ldm.random import Random
from ldm.types import Context, ContextShape, Image, Latent

_EXAMPLES = 512  # that the whitening is of


class VariationalDequantisation(Prior, Likelihood):
    """Another prior, of pixels under learnt noise. How that one draws samples is said with it (prior.prior.temperature=0.8) and
    stays.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        prior: waits for (latents, context) and is the prior of x', whitened, with an exact density.
        couplings: of the noise.
        transform: how a coupling of the noise moves a number; by default affine with a bounded log-scale.
        network: makes the networks of the noise's couplings.
        levels: how many values a pixel has in [-1, 1].
    """

    reads = "pixels"
    kind: Literal["bound"] = "bound"
    mean: Float[Tensor, "c 1 1"]
    std: Float[Tensor, "c 1 1"]

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        prior: Callable[..., Prior],
        couplings: PositiveInt = 4,
        transform: Transform | None = None,
        network: MakesNetwork = ConvNet,
        levels: PositiveInt = 256,
    ):
        super().__init__(latents, context)
        channels, *sides = latents.shape
        self.prior, self.width = prior(latents=Latents(latents.shape), context=context), width_of(levels)
        if not isinstance(self.prior, Likelihood) or self.prior.kind != "exact" or self.prior.reads != "latents":
            raise ValueError(
                f"learnt noise needs a prior with an exact density of numbers, and {type(self.prior).__name__} has none; take "
                "prior@prior.prior=glow, realnvp, spline or tarflow"
            )
        told = replace(context, spatial=channels)
        self.noise = Chain(
            [
                Coupling(Checkerboard(channels, bool(k % 2)), transform or Affine(), network, tuple(sides), told)
                for k in range(couplings)
            ]
        )
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @property
    def factor(self) -> int:
        return self.prior.factor

    def spread(self, x: Image, c: Context, random: Random) -> tuple[Image, Float[Tensor, " b"]]:
        """Images x' (b, c, h, w), drawn from the levels of x, and log q(v | x, c) of each, (b,)."""
        e = random.normal("dequantisation", tuple(x.shape[1:]))
        y, log_det = self.noise(e, replace(c, spatial=x, empty=None))
        log_slope = F.logsigmoid(y) + F.logsigmoid(-y)
        log_q = (-0.5 * (e.square() + math.log(2 * math.pi)) - log_slope).flatten(1).sum(1) - log_det
        return x + self.width * (y.sigmoid() - 0.5), log_q

    def log_prob(self, z: Image, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """One draw of the bound on log P(z | c) in nats, (b,), of images of levels."""
        spread, log_q = self.spread(z.float(), c, random or Random(0, 0, torch.arange(len(z), device=z.device)))
        scale = z.shape[2] * z.shape[3] * self.std.log().sum() - self.latents.numbers * math.log(self.width)
        return self.prior.log_prob((spread - self.mean) / self.std, c) - scale - log_q

    def loss(self, z: Image, c: Context, random: Random | None = None) -> Terms:
        random = random or Random.fresh(len(z), z.device)
        return {"nll per dimension": -self.log_prob(z, c, random).mean() / self.latents.numbers}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Image:
        spread = self.prior.sample(shape, c, random) * self.std + self.mean
        return (((spread + 1) / self.width).round() * self.width - 1).clamp(-1, 1)

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Image, Context]]) -> None:
        """The whitening is that of the first 512 images; then the prior begins."""
        first: list[tuple[Image, Context]] = []
        batches = iter(batches)
        while sum(len(x) for x, _ in first) < _EXAMPLES and (batch := next(batches, None)) is not None:
            first.append(batch)
        variance, mean = torch.var_mean(torch.cat([x for x, _ in first]).float(), dim=(0, 2, 3), correction=0)
        self.mean.copy_(mean[:, None, None])
        self.std.copy_((variance + self.width**2 / 12).sqrt()[:, None, None])  # the second is that of uniform noise

        def whitened(x: Image, c: Context) -> tuple[Latent, Context]:
            spread, _ = self.spread(x.float(), c, Random(0, 0, torch.arange(len(x), device=x.device)))
            return (spread - self.mean) / self.std, c

        self.prior.begin(whitened(x, c) for x, c in itertools.chain(first, batches))

    def networks(self) -> list[nn.Module]:
        return self.prior.networks()

    def flops(self) -> int | None:
        return self.prior.flops()

    def asks_null(self) -> bool:
        return self.prior.asks_null()

    def check_negative(self) -> None:
        self.prior.check_negative()
