"""Ranks: one process a device, all of them there before the first decision is taken.

Lightning starts the other ranks inside `fit`, each composing its own config and choosing its own directory, and in a
Hydra sweep each repeating the whole sweep. Here they are started before anything is built (ldm.stage.agent, or by torchrun or
SLURM), meet when a run begins, and rank 0 chooses for all (`agree`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies.parallel import ParallelStrategy
from torch.distributed.rendezvous import rendezvous

from ldm.build import Config, build
from ldm.ranks import agree
from ldm.resolve import ConfigError
from ldm.run.signals import StopFlag
from ldm.stage.pulse import Pulse

_NAME = "ldm run"


def placed(node: Config) -> Config:
    """The config of a trainer with as many devices and nodes as `torchrun` says, in one of its ranks."""
    if not _under_torchrun() or not isinstance(node.get("devices", "auto"), int | str):
        return node
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return node | {"devices": local, "num_nodes": world // local}


def built(node: Config, **given: Any) -> L.Trainer:
    """The trainer of a node with further arguments; ConfigError where this machine has not what it asks for."""
    try:
        return build(node, "trainer", **given)
    except ConfigError:
        raise
    except (MisconfigurationException, TypeError, ValueError) as error:  # Lightning's, as of a GPU that is not there
        raise ConfigError(f"trainer: {error} Say trainer=auto for the devices that this machine has") from error


def to_start(node: Config) -> int:
    """How many ranks have to be started for a trainer; 1 where they are there already, or one is all.

    Raises:
        ConfigError: they are of several nodes, or this machine has not what the trainer asks for.
    """
    plain = {key: value for key, value in placed(node).items() if key != "strategy"}  # which matters later
    trainer = built(plain, logger=False, enable_checkpointing=False)
    if trainer.world_size == 1 or trainer.strategy.cluster_environment.creates_processes_externally:
        return 1
    if trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}: start several nodes with `torchrun --nnodes={trainer.num_nodes} "
            f"--nproc-per-node={trainer.num_devices} ... train.py` or with SLURM; `python train.py` starts the ranks of one"
        )
    return trainer.num_devices


@contextlib.contextmanager
def ranks(trainer: L.Trainer, limit: float, stop: StopFlag) -> Iterator[None]:
    """All ranks of `trainer` run the block, and watch each other; with one device it does nothing.

    Arguments:
        limit: seconds without a sign of life after which a rank counts as frozen, and is ended.
        stop: raised where the agent that started the ranks is gone, so that they end with everything saved.
    """
    if trainer.world_size == 1:
        yield
        return
    _meet(trainer.strategy)
    store = dist.PrefixStore(agree(lambda: secrets.token_hex(8)), _store())
    pulse = Pulse(dist.get_rank(), dist.get_world_size(), limit, store, stop)
    pulse.start()
    try:
        yield
    except BaseException as error:
        lost = pulse.failed(error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        pulse.stop()
        dist.destroy_process_group()


def _meet(strategy: ParallelStrategy) -> None:
    """As Lightning has it, but that ranks which torchrun starts again do not find what the lost ones left in its store."""
    place, device = strategy.cluster_environment, strategy.root_device
    os.environ |= {"MASTER_ADDR": place.main_address, "MASTER_PORT": str(place.main_port)}
    strategy.accelerator.setup_device(device)
    strategy.set_world_ranks()
    store, rank, world = next(rendezvous("env://", place.global_rank(), place.world_size()))
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store),
        rank=rank,
        world_size=world,
        device_id=device if cuda else None,
    )
    strategy.setup_environment()


def _store() -> dist.Store:
    """The key-value store in which the ranks have met; torchrun's stays when it starts them again."""
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def restarted() -> str | None:
    """The name of the run that `torchrun` has started again after a rank was lost, or others have joined; for rank 0."""
    if not _under_torchrun() or not dist.is_initialized():
        return None
    store = _store()
    return store.get(_NAME).decode() if store.check([_NAME]) else None


def remember(name: str) -> None:
    """The name of the run, for `restarted`."""
    if _under_torchrun() and dist.is_initialized():
        _store().set(_NAME, name)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
