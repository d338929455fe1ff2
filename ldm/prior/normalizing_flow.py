"""Normalizing flows: noise through an invertible network, with an exact density.

    z = f^-1(u; c),   u ~ N(0, 1),        log p(z | c) = log N(f(z; c); 0, 1) + log|det df/dz|

Training minimises -log p. Samples are drawn with a temperature T, which is that of the noise, u ~ N(0, T^2): below 1 they come
from where the density is high (Kingma and Dhariwal 2018, section 6; a temperature of the density itself where f has the same
volume everywhere, and a habit elsewhere).

What is between the noise and z is a bijection (ldm.bijection); families differ in it alone. What makes all of them fail: data
that lie on few values, as pixels of 8 bits or a constant channel, have no density, and the likelihood grows without end as the
flow puts peaks there; so pixels are dequantised (ldm.autoencoder.dequantised). Likelihood is of every number alike, so that
the details of an image count more than what it shows: a flow with good bits per dimension may draw poor images.

Sources:
    Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), arXiv 1505.05770
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from ldm.bijection.base import Bijection
from ldm.bijection.network import CouplingNetwork
from ldm.prior.base import Invertible, Latents, Likelihood, Prior, Terms
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent

_EXAMPLES = 512  # that bijections begin from


class NormalizingFlow(Prior, Likelihood, Invertible):
    """A prior that maps latents to noise by a bijection, and back.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        bijection: from latents to noise of the same shape.
        temperature: of the noise in sampling.
    """

    DRAWING: ClassVar = ("temperature",)
    kind: Literal["exact"] = "exact"

    def __init__(self, latents: Latents, context: ContextShape, bijection: Bijection, temperature: PositiveFloat = 1.0):
        super().__init__(latents, context)
        self.bijection, self.temperature = bijection, temperature

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,)."""
        u, log_det = self.bijection(z.float(), c)
        return -0.5 * (u.square() + math.log(2 * math.pi)).flatten(1).sum(1) + log_det

    def to_noise(self, z: Latent, c: Context) -> Latent:
        return self.bijection(z.float(), c)[0]

    def from_noise(self, u: Latent, c: Context) -> Latent:
        return self.bijection.inverse(u, c)[0]

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return {"nll per dimension": -self.log_prob(z, c).mean() / self.latents.numbers}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        return self.from_noise(self.temperature * random.normal("prior", tuple(shape[1:])), c)

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Latent, Context]]) -> None:
        """What bijections take from data, as the scales of actnorm, they take from the first 512 latents."""
        latents: list[Latent] = []
        contexts: list[Context] = []
        for z, c in batches:
            latents.append(z)
            contexts.append(c)
            if sum(map(len, latents)) >= _EXAMPLES:
                break
        self.bijection.begin(torch.cat(latents).float(), Context.cat(contexts))

    def whole(self) -> str | None:
        within = {p for network in self.networks() for p in network.parameters()}
        if all(p in within for p in self.parameters()):
            return None
        return "bijections have weights of their own, which begin from data and are used in both directions"

    def networks(self) -> list[nn.Module]:
        """Those of the couplings, each of which is asked once for a sample."""
        return [module for module in self.modules() if isinstance(module, CouplingNetwork)]
