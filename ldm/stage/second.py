"""The second stage: a prior of latents and its conditioner, trained jointly, with the first stage frozen.

z is drawn from q(z|x), anew at each visit, from the cached mean and standard deviation where there is a cache and from
the encoder otherwise, and whitened when it is read. Validation is the loss at fixed noise and fixed, stratified times,
for a diffusion also by quarter of the time. An alignment, if any, adds its loss of an inner layer of the backbone and is
trained along; it is no part of the model.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ldm.alignment.alignment import Alignment
from ldm.autoencoder.bottleneck import Posterior
from ldm.build import Config, ConfigError, build
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.prior.diffusion import Diffusion
from ldm.random import Random, seed_of
from ldm.stage.player import Player, Terms
from ldm.stage.recipe import Recipe
from ldm.stage.stage import Stage
from ldm.types import Latent

log = logging.getLogger(__name__)


class Second(Stage):
    """
    Arguments:
        alignment: of the inner layer of a diffusion's backbone, as `aligned` makes it; None is without.
    """

    name = "second"

    def __init__(self, model: LatentModel, recipe: Recipe, seed: int = 0, alignment: Alignment | None = None):
        super().__init__(recipe, seed)
        self.model, self.alignment = model, alignment
        model.autoencoder.requires_grad_(False)
        self._learnt = nn.ModuleDict({"condition": model.condition, "prior": model.prior})
        along = {} if alignment is None else {"alignment": alignment}
        self._trained = nn.ModuleDict({**self._learnt, **along})
        self._heard: list[Tensor] = []  # what the inner layer gave in the training step under way
        if alignment is not None:
            count = sum(p.numel() for p in alignment.parameters()) / 1e6
            log.info("alignment   %8.3f M parameters, in training alone; %d x %d tokens", count, *alignment.grid)

    def on_fit_start(self) -> None:
        listening = self._listen()  # before the network is compiled, which would not hear of it later
        super().on_fit_start()
        self._listening = listening

    def on_fit_end(self) -> None:
        if self._listening is not None:
            self._listening.remove()

    def _listen(self) -> RemovableHandle | None:
        if self.alignment is None:
            return None
        heard = self._heard

        def hear(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if layer.training:
                heard.append(output)

        return self.model.prior.denoiser.backbone.inner.layer.register_forward_hook(hear)

    def players(self) -> list[Player]:
        parameters = [p for p in self._trained.parameters() if p.requires_grad]
        return [Player("prior", parameters, self._loss, self.recipe.optimizer)]

    def averaged(self) -> nn.Module:
        return self._learnt

    def trained(self) -> nn.Module:
        return self._trained

    def to_compile(self) -> list[nn.Module]:
        prior = self.model.prior
        return [prior.denoiser.backbone] if isinstance(prior, Diffusion) else [prior]

    def to_shard(self) -> list[nn.Module]:
        return [self.model.condition, *self.to_compile(), *([] if self.alignment is None else [self.alignment])]

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
        terms = self.model.prior.loss(z, self.model.condition(batch), random)
        return terms | self._aligned(batch), {}

    def _aligned(self, batch: dict[str, Any]) -> Terms:
        if self.alignment is None:
            return {}
        feature = batch["feature"] if "feature" in batch else self.alignment.features(batch["image"])
        inner = self._heard.pop()
        return {"alignment": self.alignment(inner, feature)}

    def validation_terms(self, batch: dict[str, Any], random: Random) -> dict[str, Tensor]:
        prior, c = self.model.prior, self.model.condition(batch)
        z = self.latent(batch, random)
        if isinstance(prior, Diffusion):
            return _by_time(prior, z, c, random)
        if isinstance(prior, Likelihood):
            return {"nll per dimension": -prior.log_prob(z, c) / z[0].numel()}
        return {name: value.expand(len(z)) for name, value in prior.loss(z, c, random).items()}


def aligned(node: Config | None, model: LatentModel, seed: int) -> Alignment | None:
    """The alignment that a config describes, for this model; None where it describes none."""
    if not node:
        return None
    if not isinstance(model.prior, Diffusion):
        raise ConfigError(
            f"alignment compares an inner layer of a diffusion's backbone, and {type(model.prior).__name__} has none: "
            "take alignment=none"
        )
    inner, (_, height, width) = model.prior.denoiser.backbone.inner, model.autoencoder.latent_shape
    torch.manual_seed(seed_of(seed, "alignment"))  # the projection's first weights
    grid = (height // inner.stride[0], width // inner.stride[1])
    return build(node, "alignment", width=inner.width, grid=grid)


def _by_time(prior: Diffusion, z: Latent, c: Any, random: Random) -> dict[str, Tensor]:
    """The loss per example and, NaN where an example's time is elsewhere, in each quarter of the time."""
    u = random.stratified("time")
    error = prior.errors(z, c, u, random.normal("noise", tuple(z.shape[1:])))
    terms = {"diffusion": error}
    for i in range(4):
        inside = (u >= i / 4) & (u < (i + 1) / 4)
        terms[f"diffusion, quarter {i + 1}"] = torch.where(inside, error, torch.nan)
    return terms
