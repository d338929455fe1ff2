"""Stages trained by `tests.stage.tiny` in two processes, by DDP over gloo."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from ldm.stage.sharding import gathered
from ldm.stage.stage import Stage
from tests.stage.tiny import fit


def on_two_ranks(folder: Path, make: Callable[[], Stage], strategy: Any = "ddp") -> list[dict[str, Tensor]]:
    """The weights that the training of what `make` gives leaves on each rank."""
    return each_on_two_ranks(folder, {"": make}, lambda stage: strategy)[""]


def each_on_two_ranks(
    folder: Path, makes: Mapping[str, Callable[[], Stage]], strategy: Callable[[Stage], Any]
) -> dict[str, list[dict[str, Tensor]]]:
    """The same of several stages by name, one after the other in the same two processes; `strategy` says how to train each."""
    # Forked: a process that starts anew imports for longer than it trains.
    mp.start_processes(_rank, (folder, makes, strategy), nprocs=2, start_method="fork")
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in makes}


def _rank(rank: int, folder: Path, makes: Mapping[str, Callable[[], Stage]], strategy: Callable[[Stage], Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    os.environ["MASTER_PORT"] = "1"  # of the group that is there already
    left = {}
    for name, make in makes.items():
        try:
            stage = make()
            fit(stage, devices=2, strategy=strategy(stage))
        except Exception as error:
            error.add_note(f"of {name}")
            raise
        left[name] = gathered(dict(stage.trained().state_dict()), keep=True)
    torch.save(left, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
