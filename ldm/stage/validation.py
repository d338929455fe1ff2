"""Validation: means over held-out images at fixed noise, with raw and with averaged weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ldm.random import Random, seed_of
from ldm.stage.means import ExampleMeans
from ldm.stage.sharding import most

if TYPE_CHECKING:
    from ldm.stage.stage import Stage


@torch.no_grad()
def validate(stage: Stage, images: int | None = None) -> dict[str, float]:
    """Means of `stage.validation_terms` over so many held-out images, or all, as `val NAME` and `val NAME (average)`.

    Each batch is read once for both weights. All ranks have to call it.
    """
    trainer, module = stage.trainer, stage.averaged()
    raw, averaged = ExampleMeans(), ExampleMeans()
    loader = trainer.datamodule.data.val_loader(trainer.global_rank, trainer.world_size, stage.accumulate, images)
    lacking = most(len(loader), stage.device) - len(loader) if stage.sharded else 0
    module.eval()
    for batch in loader:
        batch = trainer.strategy.batch_to_device(batch)
        for means, terms in zip((raw, averaged), _terms(stage, batch), strict=True):
            means.add(terms)
    for _ in range(lacking):  # the others need this rank for each of their batches
        _terms(stage, batch)
    module.train()
    found = {f"val {name}": value for name, value in raw.take().items()}
    return found | {f"val {name} (average)": value for name, value in averaged.take().items()}


def _terms(stage: Stage, batch: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a stage says of a held-out batch, with raw and with averaged weights."""
    random = Random(seed_of(stage.seed, stage.name), -1, batch["index"], batch["total"])
    with stage.trainer.precision_plugin.forward_context():
        raw = stage.validation_terms(batch, random)
        with stage.average.applied():
            return raw, stage.validation_terms(batch, random)
