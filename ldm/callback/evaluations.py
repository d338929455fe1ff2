"""Evaluation in training: the metrics of a run, on fewer samples, each time that so many images have been learnt from.

The averaged weights are measured, by all ranks, on the same held-out images and with the same noise each time. The numbers are
rows of the stage's curves under the metrics' own names, and no records: n is small, and the best of many is not a fair number.
Nothing of it is seen by training: the weights are put back, random numbers are functions of the update, the clock stands still.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from ldm.build import Config, build
from ldm.data.module import DataModule
from ldm.metric.metric import Metric
from ldm.model import LatentModel
from ldm.ranks import agree
from ldm.run.evaluation import Evaluation
from ldm.run.store import Store
from ldm.stage.sharding import made_whole
from ldm.stage.stage import Stage

Judge = Callable[[int, Mapping[str, float]], bool]
"""Is told images seen and what was measured, by name, and says whether training is worth going on: what a search prunes by. Asked
on rank 0."""


class Evaluations(L.Callback):
    """Evaluates a second stage in training.

    Arguments:
        evaluation: how, and how often.
        metrics: makes those that are measured, anew for each time.
        model: the model that is trained.
        data: the data of the run.
        judge: may end the training.
        store: keeps what metrics have learnt of real images.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        metrics: Callable[[], Sequence[Metric]],
        model: LatentModel,
        data: DataModule,
        judge: Judge | None = None,
        store: Store | None = None,
    ):
        self.every = evaluation.every
        self.evaluation = dataclasses.replace(evaluation, samples=evaluation.every_samples)
        self.metrics, self.model, self.data = metrics, model, data
        self.judge, self.store = judge, store

    def on_train_start(self, trainer: L.Trainer, stage: Stage) -> None:
        """Before the first update, try whether what the best weights are kept by is measured."""
        if stage.best is not None and stage.updates == 0:
            self._at_rest(stage, lambda: stage.best.check(self._measured()))

    def on_train_batch_end(self, trainer: L.Trainer, stage: Stage, outputs: Any, batch: Any, index: int) -> None:
        images, before = stage.updates * batch["total"], (stage.updates - 1) * batch["total"]
        if (index + 1) % stage.accumulate or (images // self.every == before // self.every and not stage.done):
            return
        self._at_rest(stage, lambda: self._evaluate(trainer, stage, batch["total"]))

    def _at_rest(self, stage: Stage, act: Callable[[], None]) -> None:
        """Do something with averaged weights in eval mode, of which training notices nothing."""
        stage.clock.tick()
        modes = {module: module.training for module in stage.modules()}
        with stage.average.applied():
            act()
        for module, training in modes.items():
            module.training = training
        stage.clock.go_on()

    def _evaluate(self, trainer: L.Trainer, stage: Stage, total: int) -> None:
        values, images = self._measured(), stage.updates * total
        stage.publish(total, values)
        stage.latest |= values
        if stage.best is not None:
            stage.best.offer(stage.averaged(), values, stage.updates, images)
        if self.judge is not None and not agree(lambda: self.judge(images, values)):
            trainer.should_stop = True

    def _measured(self) -> dict[str, float]:
        records = self.evaluation(made_whole(self.model), self.data, self.metrics(), {}, store=self.store)
        return {each.metric: each.value for each in records}


def evaluations(
    config: Config, stage: Stage, model: LatentModel, data: DataModule, judge: Judge | None = None
) -> list[Evaluations]:
    """What evaluates a stage of a run with this config in training: one for the second, where that is asked for."""
    evaluation: Evaluation = build(config["evaluation"], "evaluation")
    if stage.name != "second" or not evaluation.every or not config["metric"]:
        return []

    def metrics() -> list[Metric]:
        return list(build(config["metric"], "metric").values())

    return [Evaluations(evaluation, metrics, model, data, judge, Store(Path(config["store"])))]
