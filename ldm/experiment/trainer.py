"""Lightning's trainer of a stage, without what a stage does itself: its checkpoints, logs, validation loop and samplers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch.distributed as dist

from ldm.build import Config
from ldm.stage.launch import built, placed
from ldm.stage.sharding import FullyShard


def trainer(
    node: Config,
    folder: Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    players: int = 1,
    shards: bool = False,
    given: Config | None = None,
) -> L.Trainer:
    """The trainer that a node describes; ConfigError where this machine has not what it asks for.

    Arguments:
        folder: of the run, for what a callback writes.
        players: of the stage.
        shards: whether the stage has something to shard.
        given: further arguments, in the place of those by which Lightning itself logs, saves and shows nothing.
    """
    node, strategy = placed(dict(node)), {}
    if node.get("strategy") == "fsdp":  # FSDP2, where Lightning means its first version
        del node["strategy"]
        strategy = {"strategy": FullyShard()} if shards and dist.is_initialized() else {}
    if dist.is_initialized() and players > 1:
        # In a game each backward pass leaves the other side's parameters without a gradient.
        node.setdefault("strategy", "ddp_find_unused_parameters_true")
    return built(
        node,
        callbacks=list(callbacks),
        max_epochs=1,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=None if folder is None else str(folder),
        **strategy,
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, **(given or {})},
    )
