"""The data under a trainer: the stage says where it stands, the trainer for whom."""

from types import SimpleNamespace

import lightning as L
import pytest

from ldm.data.module import DataModule
from ldm.stage.feed import Feed
from tests.data.sources import Numbers


def data(held_out: int = 7) -> DataModule:
    return DataModule(Numbers(33), Numbers(held_out), (3, 8, 8), 4, workers=0)


class Count(L.LightningModule):
    """A stage that has done 3 of 5 updates."""

    updates, reads_to, accumulate = 3, 5, 2

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.seen, self.rows, self.waits = [], [], []
        self.clock = SimpleNamespace(waited=self.waits.append)

    def training_step(self, batch, number):
        self.seen.append((batch["step"], batch["row"].tolist()))

    def validation_step(self, batch, number):
        self.rows += batch["row"].tolist()

    def configure_optimizers(self):
        return None


def test_under_a_trainer_the_stage_says_where(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **options,
    )
    stage = Count()
    trainer.fit(stage, datamodule=Feed(data()))
    assert stage.seen == [(3, [0, 1]), (3, [2, 3]), (4, [0, 1]), (4, [2, 3])]
    assert len(stage.waits) == 3 and min(stage.waits) >= 0  # all but the first
    assert sorted(stage.rows) == list(range(7))


def test_fewer_held_out_images_than_ranks_are_told_before_the_first_update():
    feed = Feed(data(held_out=3))
    feed.trainer = SimpleNamespace(lightning_module=Count(), global_rank=0, world_size=4)
    with pytest.raises(ValueError, match=r"data\.val: 3 held-out images cannot be shared by 4 ranks"):
        feed.train_dataloader()
