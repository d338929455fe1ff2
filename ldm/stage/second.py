"""The second stage: a prior of latents and its conditioner, trained jointly, with the first stage frozen.

z is drawn from q(z|x), anew at each visit, from the cached mean and standard deviation where there is a cache and from
the encoder otherwise, and whitened when it is read. Validation is the loss at fixed noise and fixed, stratified times,
for a diffusion also by quarter of the time. An alignment, if any, adds its loss of an inner layer of the backbone and is
trained along; it is no part of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from ldm.alignment.alignment import Alignment
from ldm.backbone.base import Backbone
from ldm.build import Config, build
from ldm.model import LatentModel
from ldm.prior.base import Prior, Side
from ldm.random import Random, seed_of
from ldm.resolve import ConfigError
from ldm.stage.player import Player, Terms
from ldm.stage.recipe import Recipe
from ldm.stage.sharding import let_go
from ldm.stage.stage import Stage
from ldm.types import Codes, Context, Latent

log = logging.getLogger(__name__)

_BEGINNING = -2  # the step whose random numbers a prior's beginning takes; validation has -1


class Second(Stage):
    """Trains a prior and its condition on the latents, or codes, of a first stage that stays as it is.

    Arguments:
        alignment: of the inner layer of a diffusion's backbone, as `aligned` makes it; None is without.
    """

    name = "second"

    def __init__(self, model: LatentModel, recipe: Recipe, seed: int = 0, alignment: Alignment | None = None):
        super().__init__(recipe, seed)
        self.model, self.alignment = model, alignment
        model.autoencoder.requires_grad_(False)
        self._learnt = nn.ModuleDict({"condition": model.condition, "prior": model.prior})
        along = {"alignment": alignment, "beside": model.prior.beside()}
        present = {name: module for name, module in along.items() if module is not None}
        self._trained = nn.ModuleDict({**self._learnt, **present})
        self._hook: RemovableHandle | None = None
        self._activations: list[Tensor] = []  # what the inner layer gave in the training step under way
        if alignment is not None:
            count = sum(p.numel() for p in alignment.parameters()) / 1e6
            log.info("alignment   %8.3f M parameters, in training alone; %d x %d tokens", count, *alignment.grid)

    def on_fit_start(self) -> None:
        self.on_fit_end()  # of a fit that diverged
        self._hook = self._hooked()  # before the network is compiled, for a hook that comes later has no effect
        super().on_fit_start()

    def on_fit_end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._activations.clear()

    def _hooked(self) -> RemovableHandle | None:
        if self.alignment is None:
            return None
        activations = self._activations

        def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if layer.training:
                activations.append(output)

        return backbone_of(self.model.prior).inner.layer.register_forward_hook(keep)

    def players(self) -> list[Player]:
        sides = self.model.prior.sides()
        return [self._player(side, first=side is sides[0]) for side in sides]

    def _player(self, side: Side, first: bool) -> Player:
        """A side of the prior on this stage's batches; the condition and an alignment move with the first."""
        modules = nn.ModuleList(side.modules)
        if first:
            along = [] if self.alignment is None else [self.alignment]
            modules = nn.ModuleList([self.model.condition, *side.modules, *along])
        own = [parameter for parameter in modules.parameters() if parameter.requires_grad]

        def loss(batch: dict[str, Any], random: Random, shared: dict[str, Any]) -> tuple[Terms, Terms]:
            if "z" not in shared:
                shared["z"] = self.model.latent(batch, random)
            c = self.model.context(batch, random)
            terms, logged = side.loss(shared["z"], c, random, self.updates, shared)
            return (terms | self._aligned(batch) if first else terms), logged

        return Player(side.name, own, loss, self.recipe.optimizer)

    @property
    def prepares(self) -> bool:
        return self.model.prior.prepares

    @torch.no_grad()
    def prepare(self, held: list[dict[str, Any]]) -> list[dict[str, Any]]:
        randoms = [self.random(batch) for batch in held]
        parts = [
            (self.model.latent(b, random), self.model.context(b, random), random)
            for b, random in zip(held, randoms, strict=True)
        ]
        found = self.model.prior.prepare(parts)
        return [{"z": z} | shared for (z, _, _), shared in zip(parts, found, strict=True)]

    def conclude(self) -> Terms:
        return self.model.prior.conclude()

    def averaged(self) -> nn.Module:
        return self._learnt

    def trained(self) -> nn.Module:
        return self._trained

    def to_compile(self) -> list[nn.Module]:
        return self.model.prior.networks()

    def to_shard(self) -> list[nn.Module]:
        if len(self.model.prior.sides()) > 1:  # a game's backward passes leave parameters without a gradient
            return []
        return [self.model.condition, *self.to_compile(), *([] if self.alignment is None else [self.alignment])]

    def begin(self) -> None:
        self.model.prior.begin(self._whole_batches())
        let_go(self._trained)  # which averages would otherwise see whole
        if dist.is_initialized():
            for tensor in self.model.prior.state_dict().values():
                if isinstance(tensor, Tensor) and not isinstance(tensor, DTensor):
                    dist.broadcast(tensor, 0)  # the same data, to the last bit of any device's arithmetic

    @torch.no_grad()
    def _whole_batches(self) -> Iterator[tuple[Latent | Codes, Context]]:
        """The first batches of training, each whole on every rank."""
        for batch in self.trainer.datamodule.data.loader(0, self.steps):
            batch = self.trainer.strategy.batch_to_device(batch)
            random = Random(self._key(), _BEGINNING, batch["row"], batch["total"])
            yield self.model.latent(batch, random), self.model.told(batch, random)

    def _aligned(self, batch: dict[str, Any]) -> Terms:
        if self.alignment is None:
            return {}
        feature = batch["feature"] if "feature" in batch else self.alignment.features(batch["image"])
        inner = self._activations[-1]  # a prior may ask its network more often, and last for what it learns from
        self._activations.clear()
        return {"alignment": self.alignment(inner, feature)}

    def validation_terms(self, batch: dict[str, Any], random: Random) -> dict[str, Tensor]:
        return self.model.prior.held_out(self.model.latent(batch, random), self.model.told(batch, random), random)


def aligned(node: Config | None, model: LatentModel, seed: int) -> Alignment | None:
    """The alignment that a config describes, for this model; None where it describes none."""
    if not node:
        return None
    backbone = backbone_of(model.prior)
    if backbone is None:
        raise ConfigError(
            f"alignment compares an inner layer of a prior's backbone, and {type(model.prior).__name__} has none: "
            "take alignment=none"
        )
    inner, (_, height, width) = backbone.inner, model.autoencoder.latent_shape
    torch.manual_seed(seed_of(seed, "alignment"))  # the projection's first weights
    grid = (height // inner.stride[0], width // inner.stride[1])
    return build(node, "alignment", width=inner.width, grid=grid)


def backbone_of(prior: Prior) -> Backbone | None:
    """The first of a prior's networks that is a backbone."""
    return next((network for network in prior.networks() if isinstance(network, Backbone)), None)
