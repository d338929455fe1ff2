"""A run's data as Lightning asks for it: the batches that a stage has yet to learn from, and those that it is validated on.

The data know nothing of a trainer, and what only reads them (evaluation, sampling) does not import one.
"""

from __future__ import annotations

import lightning as L
from torch.utils.data import DataLoader

from ldm.data.module import DataModule
from ldm.stage.waiting import Waiting


class Feed(L.LightningDataModule):
    """The loaders of `data` under a trainer: `start` and `stop` are the stage's, `rank` and `world` the trainer's."""

    def __init__(self, data: DataModule):
        super().__init__()
        self.data = data

    def train_dataloader(self) -> Waiting:
        """The loader from the stage's `updates` to where it `reads_to`; the stage is told how long it waits for batches.

        Raises:
            ValueError: validation, which shares out the held-out set, would leave a rank without an image.
        """
        stage = self.trainer.lightning_module
        rank, world = self.trainer.global_rank, self.trainer.world_size
        held_out = len(self.data.sources["val"])
        if held_out < world:
            raise ValueError(
                f"data.val: {held_out} held-out images cannot be shared by {world} ranks, of which each wants one; hold "
                "out more, or take fewer devices"
            )
        return Waiting(
            self.data.loader(stage.updates, stage.reads_to, rank, world, stage.accumulate), stage.clock.waited
        )

    def val_dataloader(self) -> DataLoader:
        accumulate = self.trainer.lightning_module.accumulate
        return self.data.val_loader(self.trainer.global_rank, self.trainer.world_size, accumulate)
