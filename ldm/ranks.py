"""What the ranks of a distributed run have together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def of_all_ranks(x: Shaped[Tensor, "n *c"]) -> Shaped[Tensor, "m *c"]:
    """The rows of all ranks, which have equally many, in the order of the ranks; outside of a distributed run, x. Every rank
    calls it. No gradient goes through."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
