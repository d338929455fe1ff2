"""A stage of `tests.stage.tiny` trained by two processes, by DDP over gloo."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor

from ldm.stage.stage import Stage
from tests.stage.tiny import fit


def on_two_ranks(folder: Path, make: Callable[[], Stage], strategy: str = "ddp") -> list[dict[str, Tensor]]:
    """The weights that the training of what `make` gives leaves on each rank."""
    # Forked: a process that starts anew imports for longer than it trains.
    mp.start_processes(_rank, (folder, make, strategy), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank: int, folder: Path, make: Callable[[], Stage], strategy: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    os.environ["MASTER_PORT"] = "1"  # of the group that is there already
    made = fit(make(), devices=2, strategy=strategy)
    torch.save(dict(made.trained().state_dict()), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
