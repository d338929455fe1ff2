"""Sharded training: each of N ranks keeps one part in N of every weight, of its gradient and averages, and of what the optimiser
remembers of it, and does that part's update.

The whole weights are put together block by block for the forward pass and again for the backward pass, and let go after each;
gradients are averaged over the ranks by parts, by torch's `fully_shard`. The updates are those of DDP but for the order of
sums. What is not trained (a first stage, a text encoder of others) stays whole on every rank.

A checkpoint is the same file as of whole training, so it goes on with any number of ranks, sharded or not. To write it rank 0
puts the tensors together one after the other and holds them on the host: 4 numbers a weight with Adam and one average, 16 bytes,
on top of the largest tensor on the device. Nothing is sharded on disk.

Sources:
    Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (2019), arXiv 1910.02054, section 5
    Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (2023), arXiv 2304.11277
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ldm.model import LatentModel
from ldm.resolve import ConfigError


class FullyShard(ModelParallelStrategy):
    """Lightning's strategy around `fully_shard`, over all ranks; what is sharded is the stage's to say."""

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients of every micro-batch are averaged: to keep them until the last would keep them whole."""
        yield


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that stand in a list and are called one by one, the outermost of them."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(network, nn.ModuleList) and _is_called(child):
            found.append(child)
        else:
            found += blocks(child)
    return found


def _is_called(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def check_sharding(networks: Iterable[nn.Module], trained: nn.Module) -> None:
    """ConfigError where `trained` has weights that no forward pass stands for."""
    within = {p for network in networks for p in network.parameters()}
    for name, module in trained.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and p not in within]
        if own and not _is_called(module):
            raise ConfigError(
                f"trainer.strategy=fsdp shards networks, and {name} ({type(module).__name__}) has weights beside its networks; "
                "take trainer.strategy=ddp"
            )


def shard(networks: Sequence[nn.Module], trained: nn.Module, mesh: DeviceMesh) -> None:
    """Shard everything in `trained` that learns, in place: each block, then each network around its blocks, then each module
    elsewhere that has weights of its own. ConfigError as of `check_sharding`."""
    check_sharding(networks, trained)
    # Of a context, which is changed by no operation in place.
    warnings.filterwarnings("ignore", ".*returned a view tensor.*", UserWarning)
    frozen = {p for p in trained.parameters() if not p.requires_grad}

    def apply(module: nn.Module, is_block: bool = False) -> None:
        # Around the blocks weights stay whole until the backward pass: an answer may hold some, as a context does of "nothing".
        fully_shard(module, mesh=mesh, reshard_after_forward=is_block, ignored_params=frozen)

    for network in networks:
        for module in (*blocks(network), network):
            if any(p.requires_grad for p in module.parameters()):
                apply(module, is_block=module is not network)
    for module in trained.modules():
        if any(p.requires_grad and not isinstance(p, DTensor) for p in module.parameters(recurse=False)):
            apply(module)


def let_go(module: nn.Module) -> None:
    """Weights are put together anew in the next forward pass; called where they were changed from outside."""
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, not a copy of it; any other as it is."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor


def put_together(tensor: Tensor) -> Tensor:
    """A sharded tensor whole, any other as it is; a collective call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def of_parts(part: Tensor, like: Tensor) -> Tensor:
    """The tensor, sharded as `like` is, of which `part` is this rank's."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def as_sharded(value: Any, like: Tensor) -> Any:
    """A whole tensor, the same on all ranks, sharded as `like` is; what is not of its shape as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def gathered(state: Any, keep: bool) -> Any:
    """The same nested state with its sharded tensors whole and on the host; None in their place where they are not to be kept. A
    collective call."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(state, dict):
        return {key: gathered(value, keep) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value, keep) for value in state]
    return state


def made_whole(model: LatentModel) -> LatentModel:
    """A model with whole weights on every rank: itself, or where it is sharded a new one. A collective call."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return model
    made = LatentModel.build(model.config)
    made.made_from, made.cost = model.made_from, model.cost
    made.load_state_dict(gathered(dict(model.state_dict()), keep=True))
    return made.requires_grad_(False).eval()


def most(count: int, device: torch.device) -> int:
    """The largest of the ranks' numbers; a collective call."""
    box = torch.tensor(count, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)
