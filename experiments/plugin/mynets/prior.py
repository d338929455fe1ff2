"""A Gaussian with a mean and a deviation for each channel of the latent, whatever the condition:

p(z) = prod N(z_i; mean, deviation^2).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from ldm.prior.base import Latents, Likelihood, Prior
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent


class Diagonal(Prior, Likelihood):
    """
    Arguments:
        latents, context: what is modelled and what it is given; whoever builds it fills them in.
        deviation: of each channel before training.
    """

    kind: Literal["exact"] = "exact"

    def __init__(self, latents: Latents, context: ContextShape, deviation: PositiveFloat = 1.0):
        super().__init__(latents, context)
        self.mean = nn.Parameter(torch.zeros(latents.shape[0], 1, 1))
        self.log_deviation = nn.Parameter(torch.full((latents.shape[0], 1, 1), math.log(deviation)))

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> dict[str, Tensor]:
        return {"nll": -self.log_prob(z, c).mean()}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        noise = (random or Random.fresh(shape[0])).normal("prior", tuple(shape[1:]))
        return self.mean + self.log_deviation.exp() * noise

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        eps = (z - self.mean) * (-self.log_deviation).exp()
        return (-0.5 * (eps.square() + math.log(2 * math.pi)) - self.log_deviation).flatten(1).sum(1)
