"""The first stage: an autoencoder, and a critic where the loss has one.

Two players share one forward pass: the autoencoder's reconstruction is kept, detached, for the critic, so that the
critic's gradient can reach no weight of the autoencoder. What needs the whole batch of an update, the critic's adaptive
weight and a quantiser's codes, is gathered over its micro-batches and done with the last of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.loss.adaptive import AdaptiveWeight
from ldm.loss.first_stage import FirstStageLoss
from ldm.random import Random
from ldm.stage.player import Player, Terms
from ldm.stage.recipe import Recipe
from ldm.stage.stage import Stage


class First(Stage):
    """Trains an autoencoder and, where its loss has one, a critic."""

    name = "first"

    def __init__(self, autoencoder: Autoencoder, loss: FirstStageLoss, recipe: Recipe, seed: int = 0):
        super().__init__(recipe, seed)
        self.autoencoder, self.loss = autoencoder, loss
        self._learnt = nn.ModuleDict({"autoencoder": autoencoder, "loss": loss})
        self._adaptive: AdaptiveWeight | None = None  # of the present update

    def players(self) -> list[Player]:
        own = [p for p in self.autoencoder.parameters() if p.requires_grad] + list(self.loss.model_parameters())
        players = [Player("autoencoder", own, self._reconstruct, self.recipe.optimizer)]
        critic = list(self.loss.critic_parameters())
        if critic:
            players.append(Player("critic", critic, self._criticise, self.recipe.optimizer))
        return players

    def averaged(self) -> nn.Module:
        return self.autoencoder

    def trained(self) -> nn.Module:
        return self._learnt

    def to_compile(self) -> list[nn.Module]:
        return [self.autoencoder.encoder, self.autoencoder.decoder]

    def _reconstruct(self, batch: dict[str, Any], random: Random, shared: dict[str, Any]) -> tuple[Terms, Terms]:
        x = batch["image"]
        noise = random.normal("posterior", (self.loss.draws, *self.autoencoder.latent_shape))
        made = self.autoencoder(x, noise.flatten(0, 1))
        shared["made"] = made.image.detach()
        if self._adaptive is None and self.loss.adversarial is not None:
            own, last_layer = self._players[0].parameters, self.autoencoder.last_layer
            self._adaptive = AdaptiveWeight(own, last_layer, self.accumulate, self._scaler())
        return self.loss.generator(x, made, self.updates, self._adaptive)

    def _criticise(self, batch: dict[str, Any], random: Random, shared: dict[str, Any]) -> tuple[Terms, Terms]:
        return self.loss.critic(batch["image"], shared["made"], self.updates)

    def conclude(self) -> Terms:
        numbers = self.autoencoder.bottleneck.step()
        if self._adaptive is not None and self._adaptive.value is not None:
            numbers["adversarial weight"] = self._adaptive.value
        self._adaptive = None
        return numbers

    def validation_terms(self, batch: dict[str, Any], random: Random) -> dict[str, Tensor]:
        x = batch["image"]
        posterior = self.autoencoder.posterior(x)
        made = self.autoencoder.decode_raw(posterior.mean).float().clamp(-1, 1)
        error = (made - x).square().flatten(1).mean(1)
        terms = {"mse": error, "psnr": 10 * torch.log10(4 / error.clamp(min=1e-10))}
        if bool((posterior.std > 0).all()):
            terms["kl (unweighted)"] = posterior.kl()
        return terms
