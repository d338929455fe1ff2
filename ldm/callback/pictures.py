"""Pictures during training: reconstructions beside originals, and samples for held-out captions beside real images.

They are made with the averaged weights, and always of the same examples with the same noise, so that the pictures of a run
show how the model develops. They are saved to `samples/` with their captions, and sent to every logger.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ldm.callback.image_grid import ImageGrid, beside, save
from ldm.data.module import DataModule
from ldm.logger.sink import Sink
from ldm.model import LatentModel
from ldm.random import Random
from ldm.stage.stage import Stage


class Pictures(L.Callback):
    """Makes pictures every `picture_every` updates of a stage, and at its end.

    Arguments:
        folder: the folder for the PNG and JSON files.
        model: the model that is trained.
        data: the data of the run.
        sinks: the loggers.
        count: number of examples in a picture, spread over the held-out set.
    """

    def __init__(self, folder: Path, model: LatentModel, data: DataModule, sinks: Sequence[Sink], count: int = 16):
        self.folder, self.model, self.data, self.sinks = folder, model, data, sinks
        size = len(data.sources["val"])
        self.rows = torch.linspace(0, size - 1, min(count, size)).long().tolist()

    def on_train_start(self, trainer: L.Trainer, stage: Stage) -> None:
        """Remove the pictures of updates after the one from which a stage is resumed, as the journal removes its rows."""
        if trainer.global_rank == 0:
            drop_pictures(self.folder, stage.name, stage.updates)

    def on_train_batch_end(self, trainer: L.Trainer, stage: Stage, outputs: Any, batch: Any, index: int) -> None:
        every, done = stage.recipe.picture_every, stage.done
        whole = (index + 1) % stage.accumulate == 0
        if not every or not whole or (stage.updates % every and not done):
            return
        if trainer.global_rank != 0 and not stage.sharded:
            return
        stage.clock.tick()
        self._draw(stage)
        stage.clock.go_on()

    @torch.no_grad()
    def of_untrained(self, seed: int) -> None:
        """Samples of a prior that has nothing to learn, as of update 0; on one rank."""
        path = self.folder / "second-0000000.png"
        if path.exists():
            return
        grid = self._samples(self._batch(self.model.device), seed)
        save(grid, path, kind="samples", stage="second", step=0, images=0, title="second stage")
        for sink in self.sinks:
            sink.picture("second", 0, "samples", grid.picture)

    def _batch(self, device: torch.device) -> dict[str, Any]:
        batch = self.data.items("val", self.rows)
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    @torch.no_grad()
    def _draw(self, stage: Stage) -> None:
        batch = self._batch(stage.device)
        modes = {module: module.training for module in stage.modules()}
        self.model.eval()
        with stage.average.applied():
            kind, grid = self._picture(stage, batch)
        for module, training in modes.items():
            module.training = training
        if stage.global_rank != 0:
            return
        images = stage.updates * self.data.batch_size
        path = self.folder / f"{stage.name}-{stage.updates:07d}.png"
        save(grid, path, kind=kind, stage=stage.name, step=stage.updates, images=images, title=f"{stage.name} stage")
        for sink in self.sinks:
            sink.picture(stage.name, images, kind, grid.picture)

    def _picture(self, stage: Stage, batch: dict[str, Any]) -> tuple[str, ImageGrid]:
        if stage.name == "second":
            return "samples", self._samples(batch, stage.seed)
        pairs = [("original", batch["image"]), ("reconstruction", self.model.reconstruct(batch["image"]))]
        return "reconstructions", beside(pairs, words(batch, self.data.classes))

    def _samples(self, batch: dict[str, Any], seed: int) -> ImageGrid:
        found = self.model.sample(batch, Random(seed, 0, batch["index"]))
        return beside([("generated", found), ("real", batch["image"])], words(batch, self.data.classes))


def drop_pictures(folder: Path, stage: str, after: int) -> None:
    """Remove the pictures of a stage that were made after update `after`."""
    for file in folder.glob(f"{stage}-*"):
        if int(file.stem.rpartition("-")[2]) > after:
            file.unlink()


def words(batch: dict[str, Any], classes: Sequence[str]) -> list[str] | None:
    """The texts below the images of a batch: captions, or else the names of labels; None where there are neither."""
    if any(batch.get("caption", ())):
        return list(batch["caption"])
    if "label" in batch and (batch["label"] >= 0).any():
        return ["" if i < 0 else classes[i] if classes else str(i) for i in batch["label"].tolist()]
    return None
