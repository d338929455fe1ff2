"""What of a run's two stages is there, and how they come to be what the config says now (ldm.stage.provenance)."""

from __future__ import annotations

import dataclasses
import logging

from ldm.build import Config, build
from ldm.callback.pictures import drop_pictures
from ldm.data.module import DataModule
from ldm.experiment.given import Given
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run.checkpoint import Checkpoints
from ldm.run.directory import Journal, RunDirectory
from ldm.run.snapshots import Snapshots
from ldm.run.store import Store, key_of
from ldm.stage import provenance, settings
from ldm.stage.difference import shown
from ldm.stage.latents import pays, weights_key
from ldm.stage.provenance import Plan
from ldm.stage.recipe import Recipe
from ldm.stage.settings import History

log = logging.getLogger(__name__)


class Planning:
    """How the stages of a run come to be.

    Arguments:
        model: before any stage has changed it.
        data: with images, before latents take their place.

    Attributes:
        trains: by the name of a stage, whether it is trained at all.
    """

    def __init__(
        self, config: Config, model: LatentModel, data: DataModule, given: Given, place: RunDirectory, store: Store
    ):
        self.config, self.model, self.data = config, model, data
        self.given, self.place, self.store = given, place, store
        learns = {
            part: any(p.requires_grad for p in module.parameters())
            for part, module in (("first", model.autoencoder), ("second", model.prior))
        }
        self.trains = {stage: bool(config.get(stage)) and learns[stage] for stage in learns}
        if given.has_first and not given.trains_on:
            self.trains["first"] = False

    def plans(self) -> tuple[Plan, Plan]:
        """How both stages come to be; ConfigError where one may not go on. What is to be made anew is removed then."""
        first = self._decided("first", self._first())
        second = self.second(first.history, None if self.given.trains_on else self.given.first)
        if self.given.prior is not None:
            self.given.prior.check(self._known_first(first))
        for stage, plan in (("first", first), ("second", second)):
            if plan.anew:
                log.info("the %s stage is made anew", stage)
                self.checkpoints(stage).clear()
                self.snapshots(stage).clear()
                Journal(self.place.metrics).rewind(stage, 0)
                drop_pictures(self.place.samples, stage, after=0)
            if plan.changed:
                log.warning(
                    "the %s stage goes on after update %d with other settings: %s. That is not what they make from the "
                    "start, which %s.again=true makes",
                    *(stage, plan.updates, shown(plan.changed), stage),
                )
        return first, second

    def second(self, first: History, weights: str | None) -> Plan:
        """How the second stage comes to be on a first stage of this history; `weights` is its hash, None where it is not made
        yet. ConfigError where it may not go on."""
        begun_from = None if self.given.prior is None else self.given.prior.settings()
        asked = settings.of_second(self.config, self.data, first, weights, begun_from)
        return self._decided("second", provenance.plan("second", provenance.begun(self.checkpoints("second")), asked))

    def caches(self) -> bool:
        """Whether latents are encoded once before a prior is trained."""
        if not self.trains["second"] or "image" in self.model.condition.needs:
            return False
        asked = self.config["cache_latents"]
        if asked != "auto":
            return asked
        return pays(self.data, build(self.config["second"], "second").expected(self.data.batch_size))

    def is_left(self, stage: str, plan: Plan) -> bool:
        """Whether updates of a stage are to be made here; the store may still have the first."""
        return self.trains[stage] and not plan.finished

    def checkpoints(self, stage: str) -> Checkpoints:
        """Those of a stage of this run."""
        return Checkpoints(self.place.checkpoints / stage)

    def snapshots(self, stage: str) -> Snapshots:
        """Those of a stage of this run."""
        return Snapshots(self.place.snapshots / stage)

    def pruned(self, stage: str) -> bool:
        """Whether of a stage that was trained here the weights alone are left, in `model/`."""
        return self.checkpoints(stage).pruned()

    def prune(self, stage: str, history: History) -> None:
        """Leave of a finished stage what it has cost. One that was found in the store has no checkpoint of its end here."""
        checkpoints, there = self.checkpoints(stage), provenance.begun(self.checkpoints(stage))
        recipe: Recipe = build(self.config[stage], stage)
        if not recipe.budget:
            checkpoints.prune(recipe.steps, history)
        elif there is not None and recipe.position(there.updates, there.spent) >= recipe.steps:
            checkpoints.prune(there.updates, history, dataclasses.asdict(there.spent))
        else:
            found = self.store.description(self.store.path("autoencoder", key_of(history)))
            checkpoints.prune(found["updates"], history, found["spent"])

    def _first(self) -> Plan:
        there = provenance.begun(self.checkpoints("first"))
        if self.given.has_first and not self.given.trains_on:
            return provenance.plan("first", there, {"autoencoder": {"checkpoint": self.given.first}})
        if not self.trains["first"]:
            return provenance.plan("first", there, {"autoencoder": self.config["autoencoder"]})
        return provenance.plan("first", there, settings.of_first(self.config, self.data, self.given.first))

    def _known_first(self, first: Plan) -> str | None:
        """The hash of the first stage that there will be; None where it is still to be trained."""
        if not self.trains["first"]:
            return weights_key(self.model.autoencoder)
        found = self.store.find("autoencoder", key_of(first.history))
        return None if found is None else self.store.description(found)["weights"]

    def _decided(self, stage: str, plan: Plan) -> Plan:
        """The plan, or that of a new beginning where this is asked for; ConfigError where the stage may not go on."""
        if (self.config.get(stage) or {}).get("again", False):
            return plan.again()
        if plan.refused:
            raise ConfigError(
                f"{self.place.path}: the {stage} stage ({plan.updates} updates) was made with other words: "
                f"{shown(plan.refused)}. Take those, or another name=, or {stage}.again=true to make it anew"
            )
        return plan
