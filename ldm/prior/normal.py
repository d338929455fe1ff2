"""The standard normal prior, with nothing to learn: with `autoencoder=vae` it makes a plain VAE.

Source: Kingma and Welling, Auto-Encoding Variational Bayes (2013), arXiv 1312.6114.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.prior.base import Likelihood, Prior
from ldm.prior.stepwise import Grid, Laws, Stepwise, mixture_laws
from ldm.random import Random
from ldm.types import Context, Latent


class Normal(Prior, Likelihood, Stepwise):
    """p(z | c) = N(z; 0, 1) in every number, whatever the context.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
    """

    kind: Literal["exact"] = "exact"

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> dict[str, Tensor]:
        return {"nll": -self.log_prob(z, c).mean()}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        return random.normal("prior", tuple(shape[1:]))

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        return (-0.5 * (z.square() + math.log(2 * math.pi))).flatten(1).sum(1)

    def laws(self, c: Context, grid: Grid | None = None) -> Laws:
        zeros = torch.zeros(1, self.latents.numbers, dtype=torch.float64)
        yield from mixture_laws(zeros[:, 0], zeros, torch.ones_like(zeros), grid)
