"""Ranks: one process a device, all of them there before the first decision is taken.

Lightning starts the other ranks inside `fit`, each composing its own config and choosing its own directory, and in a
Hydra sweep each repeating the whole sweep. Here rank 0 composes once, hands its config to the others in the environment,
and chooses for all (`agree`). Under torchrun or SLURM the processes are there already.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist

from ldm.run.store import Lock
from ldm.stage.handover import CONFIG, handed_down
from ldm.stage.pulse import GRACE, Pulse

_OWN = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", CONFIG)

T = TypeVar("T")


@contextlib.contextmanager
def ranks(trainer: L.Trainer, config: dict[str, Any]) -> Iterator[None]:
    """All ranks of `trainer` run the block; with one device it does nothing.

    A rank that fails, is killed or freezes (for `config["rank_timeout"]` seconds) ends the others.
    """
    if trainer.world_size == 1:
        yield
        return
    outside = trainer.strategy.cluster_environment.creates_processes_externally
    over = threading.Event()
    children = [] if outside or handed_down() is not None else _start(trainer, config, over)
    trainer.strategy.setup_environment()
    pulse = Pulse(dist.get_rank(), dist.get_world_size(), config["rank_timeout"], lambda: _kill(children))
    pulse.start()
    try:
        yield
    except BaseException as error:
        lost = pulse.failed(error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        over.set()
        pulse.stop()
        dist.destroy_process_group()
        if children:
            _end(children)


def _kill(children: list[subprocess.Popen]) -> None:
    for child in children:
        child.kill()


def _start(trainer: L.Trainer, config: dict[str, Any], over: threading.Event) -> list[subprocess.Popen]:
    if trainer.num_nodes > 1:
        raise RuntimeError(
            f"trainer.num_nodes={trainer.num_nodes}: start several nodes with torchrun or SLURM; "
            "`python train.py` starts the ranks of one node"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(config, file)
    count = trainer.num_devices
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "NODE_RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(count),
        CONFIG: file.name,
    }
    torch.set_num_threads(int(threads))
    children = [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": str(rank), "OMP_NUM_THREADS": threads}
        )
        for rank in range(1, count)
    ]
    threading.Thread(target=_watch, args=(children, over), daemon=True).start()
    return children


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _watch(children: list[subprocess.Popen], over: threading.Event) -> None:
    """End the whole run when one rank ends badly: the others would wait for it in a collective.

    Not at once, so that this rank may end by its own error, with its own message.
    """
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for i, child in enumerate(children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes[i] = child.wait(timeout=0.2)
        bad = next((code for code in codes.values() if code not in (0, 75, 3)), None)
        if bad is not None and not over.wait(GRACE):
            rank = next(i for i, code in codes.items() if code == bad) + 1
            print(f"rank {rank} ended with exit code {bad}; ending the run", file=sys.stderr, flush=True)
            _kill(children)
            os._exit(1)


def _end(children: list[subprocess.Popen]) -> None:
    for child in children:
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
    Path(os.environ[CONFIG]).unlink(missing_ok=True)
    for name in _OWN:  # the next job of a sweep starts its own
        os.environ.pop(name, None)


def rank() -> int:
    """The number of this process among the ranks; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def agree(choose: Callable[[], T]) -> T:
    """Rank 0 chooses, all get the answer; an exception of rank 0 is raised on all."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return choose()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = choose()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


@contextlib.contextmanager
def turn(lock: Lock) -> Iterator[None]:
    """Rank 0 holds `lock` for all ranks. While it waits they meet twice a minute, so that no collective times out."""
    while not agree(lambda: lock.acquire(30.0)):
        pass
    try:
        yield
    finally:
        if rank() == 0:
            lock.release()
