"""What the ranks of a distributed run have together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def of_all_ranks(x: Shaped[Tensor, "n *c"], sizes: Sequence[int] | None = None) -> Shaped[Tensor, "m *c"]:
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


def sizes_of_ranks(x: Shaped[Tensor, "n *c"]) -> list[int]:
    """How many rows of x each rank has. Every rank calls it; the host waits for the device."""
    return of_all_ranks(torch.tensor([len(x)], device=x.device)).tolist()


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
