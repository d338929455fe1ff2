"""The second stage: a prior of latents and its conditioner, trained jointly, with the first stage frozen.

z is drawn from q(z|x), anew at each visit, from the cached mean and standard deviation where there is a cache and from
the encoder otherwise, and whitened when it is read. Validation is the loss at fixed noise and fixed, stratified times,
for a diffusion also by quarter of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.bottleneck import Posterior
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.stage.player import Player, Terms
from ldm.stage.recipe import Recipe
from ldm.stage.stage import Stage
from ldm.types import Latent


class Second(Stage):
    name = "second"

    def __init__(self, model: LatentModel, recipe: Recipe, seed: int = 0):
        super().__init__(recipe, seed)
        self.model = model
        model.autoencoder.requires_grad_(False)
        self._learnt = nn.ModuleDict({"condition": model.condition, "prior": model.prior})

    def players(self) -> list[Player]:
        parameters = [p for p in self._learnt.parameters() if p.requires_grad]
        return [Player("prior", parameters, self._loss, self.recipe.optimizer)]

    def averaged(self) -> nn.Module:
        return self._learnt

    def trained(self) -> nn.Module:
        return self._learnt

    def to_compile(self) -> list[nn.Module]:
        prior = self.model.prior
        return [prior.denoiser.backbone] if isinstance(prior, Diffusion) else [prior]

    def latent(self, batch: dict[str, Any], random: Random) -> Latent:
        """A whitened latent of each example, drawn from its posterior."""
        autoencoder = self.model.autoencoder
        with torch.no_grad():
            if "mean" in batch:
                posterior = autoencoder.whiten(Posterior(batch["mean"].float(), batch["std"].float()))
            else:
                autoencoder.eval()
                posterior = autoencoder.encode(batch["image"])
            return posterior.sample(random.normal("posterior", tuple(posterior.mean.shape[1:])))

    def _loss(self, batch: dict[str, Any], random: Random, shared: dict[str, Any]) -> tuple[Terms, Terms]:
        z = self.latent(batch, random)
        return self.model.prior.loss(z, self.model.condition(batch), random), {}

    def validation_terms(self, batch: dict[str, Any], random: Random) -> dict[str, Tensor]:
        prior, c = self.model.prior, self.model.condition(batch)
        z = self.latent(batch, random)
        if isinstance(prior, Diffusion):
            return _by_time(prior, z, c, random)
        if isinstance(prior, Likelihood):
            return {"nll per dimension": -prior.log_prob(z, c) / z[0].numel()}
        return {name: value.expand(len(z)) for name, value in prior.loss(z, c, random).items()}


def _by_time(prior: Diffusion, z: Latent, c: Any, random: Random) -> dict[str, Tensor]:
    """The loss per example and, NaN where an example's time is elsewhere, in each quarter of the time."""
    u = random.stratified("time")
    error = prior.errors(z, c, u, random.normal("noise", tuple(z.shape[1:])))
    terms = {"diffusion": error}
    for i in range(4):
        inside = (u >= i / 4) & (u < (i + 1) / 4)
        terms[f"diffusion, quarter {i + 1}"] = torch.where(inside, error, torch.nan)
    return terms
