"""Means of named numbers over updates or examples and over ranks, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Means:
    """Means over the updates that had a number of each name. Reading them is the only wait for the device in `log_every`
    updates."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.updates = 0
        self._present: set[str] = set()

    def add(self, values: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Add named numbers of a micro-batch, which is the share `share` of an update. Numbers that are not finite count as
        0."""
        for name, value in values.items():
            value = torch.nan_to_num(value.detach().float() * share, 0.0, 0.0, 0.0)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self._present |= values.keys()

    def end_update(self) -> None:
        """End an update, after all of its micro-batches were added."""
        for name in self._present:
            self.counts[name] = self.counts.get(name, 0) + 1
        self._present.clear()
        self.updates += 1

    def take(self, beside: Tensor) -> tuple[dict[str, float], list[float]]:
        """The means over all updates since the last call and over all ranks, and the means over ranks of the numbers `beside`,
        which are read in the same wait for the device."""
        names = sorted(self.sums)
        values = torch.cat([torch.stack([self.sums[name] for name in names]), beside])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(values)
            values /= dist.get_world_size()
        numbers = values.tolist()
        means = {name: value / self.counts[name] for name, value in zip(names, numbers, strict=False)}
        self.sums, self.counts, self.updates = {}, {}, 0
        return means, numbers[len(names) :]

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"sums": self.sums, "counts": self.counts, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.sums, self.counts, self.updates = state["sums"], state["counts"], state["updates"]


class ExampleMeans:
    """Means over examples. NaN means that an example does not have a number of that name."""

    def __init__(self) -> None:
        self.pairs: dict[str, Tensor] = {}  # sum and count

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch: numbers (b,) by name."""
        for name, value in values.items():
            pair = torch.stack([value.double().nansum(), (~value.isnan()).double().sum()])
            self.pairs[name] = self.pairs[name] + pair if name in self.pairs else pair

    def take(self) -> dict[str, float]:
        """The means over all examples and ranks."""
        names = sorted(self.pairs)
        pairs = torch.stack([self.pairs[name] for name in names])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(pairs)
        return {name: total / max(n, 1) for name, (total, n) in zip(names, pairs.tolist(), strict=True)}
