"""What the ranks of a distributed run have together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """The number of this process among the ranks; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def agree(choose: Callable[[], T]) -> T:
    """Rank 0 chooses, all get the answer; an exception of rank 0 is raised on all."""
    if _alone():
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


def of_all_ranks(x: Shaped[Tensor, " n *c"], sizes: Sequence[int] | None = None) -> Shaped[Tensor, " m *c"]:
    """The rows of all ranks, in the order of the ranks; outside of a distributed run, x. Every rank calls it. No gradient goes
    through.

    Arguments:
        sizes: how many rows each rank has (`sizes_of_ranks`); by default all have as many as this one.
    """
    if _alone():
        return x
    sizes = [len(x)] * dist.get_world_size() if sizes is None else sizes
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def sizes_of_ranks(x: Shaped[Tensor, " n *c"]) -> list[int]:
    """How many rows of x each rank has. Every rank calls it; the host waits for the device."""
    return of_all_ranks(torch.tensor([len(x)], device=x.device)).tolist()


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
