"""A stage of a run, trained to its end: watched, drawn and evaluated on the way, and back to a checkpoint where it diverged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
from rich.console import Console

from ldm.build import Config
from ldm.callback import watchers
from ldm.callback.evaluations import Judge, evaluations
from ldm.callback.pictures import Pictures
from ldm.callback.progress import Bar
from ldm.data.module import DataModule
from ldm.experiment.planning import Planning
from ldm.experiment.trainer import trainer
from ldm.logger.sink import Sink
from ldm.model import LatentModel
from ldm.run.directory import Journal, RunDirectory
from ldm.run.signals import Diverged, StopFlag, Stopped
from ldm.stage.feed import Feed
from ldm.stage.provenance import Plan
from ldm.stage.stage import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a stage of a run is trained with.

    Fields:
        model: of whose samples pictures are drawn and numbers measured.
        data: that the stage learns from: images or, of a second stage whose latents are cached, latents.
        console: on which a bar shows how far it is.
        judge: is told what evaluations in training measure and may end the training.
    """

    config: Config
    model: LatentModel
    data: DataModule
    place: RunDirectory
    planning: Planning
    sinks: Sequence[Sink]
    stop: StopFlag
    console: Console
    judge: Judge | None = None

    def fit(self, stage: Stage, plan: Plan) -> None:
        """Train to the end, from where the stage stands; Stopped if a signal or a callback came first."""
        journal, settings = Journal(self.place.metrics), plan.history[-1]["settings"]
        checkpoints, snapshots = self.planning.checkpoints(stage.name), self.planning.snapshots(stage.name)
        stage.attach(checkpoints, snapshots, journal, self.stop, self.sinks, settings)
        while not self._fitted(stage):
            pass
        if not stage.done:
            if not self.stop.raised:
                log.info(
                    "a callback ended the %s stage after update %d (of %s); %s.steps=%d is a stage that ends there",
                    *(stage.name, stage.updates, stage.recipe.limit(), stage.name, stage.updates),
                )
            raise Stopped

    def _fitted(self, stage: Stage) -> bool:
        """Train by one trainer; whether that came to an end, and not back to a checkpoint."""
        try:
            self._trainer(stage).fit(stage, datamodule=Feed(self.data))
        except Diverged:
            if not stage.go_back():
                raise
            return False
        finally:
            stage.rescue()
        return True

    def _trainer(self, stage: Stage) -> L.Trainer:
        callbacks, given = watchers.watching(
            self.config["callback"], stage, self.data.batch_size, self.place.path / "lightning"
        )
        watching = [
            Bar(self.console),
            Pictures(self.place.samples, self.model, self.data, self.sinks),
            *evaluations(self.config, stage, self.model, self.data, self.judge),
            *callbacks,
        ]
        players, shards = len(stage.players()), bool(stage.to_shard())
        return trainer(self.config["trainer"], self.place.path, watching, players, shards, given)
