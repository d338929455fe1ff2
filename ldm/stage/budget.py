"""Budgets: a stage ends when it has cost so much, in seconds, images or floating-point operations, and not after so many updates.

Everything that depends on how long a training is (learning rates, the warm-up of averages, snapshots, the end) follows one notion
of progress, and so the same recipe is a whole one under any limit:

    p = spent / budget in [0, 1],    position t = p * steps,    length in updates N = n / p after n updates.

Without a budget the position is the number of updates, t = n, and the length is `steps`. With one, `steps` does not limit
anything and is the unit of the position alone: `warmup: 100` beside `steps: 10000` is the first hundredth of the budget.

A stage ends with the first update at whose end the budget is spent, so it costs at most one update more. Of the three
budgets, images and operations are functions of the update. Seconds are those of training alone (ldm.stage.clock), of rank 0's
clock, which decides for all ranks; they are in each checkpoint, so a run that goes on has as much left as it had there. Two
runs of seconds are equal only where their clocks were. On a processor that others use, too, seconds pass without work; there
CPU seconds, those in which the process of rank 0 computed, of all of its threads together, are the same cost on a busy day.

What makes it fail: a budget of few updates (a hundredth of it is less than an update); seconds of two machines, or of one
that was shared, which are not the same cost; CPU seconds where a GPU computes, or data workers, whose time is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Spent:
    """What the updates of a stage have cost so far: images (repeated ones too), seconds, floating-point operations, and where
    a budget is of them CPU seconds."""

    images: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, state: Mapping[str, Any], batch_size: int) -> Spent:
        """What a stage's state in a checkpoint says; without a budget it says only how many updates there were, in how many
        seconds."""
        updates = state["updates"]
        plain = cls(updates * batch_size, state.get("seconds", 0.0), float(state.get("flops", {}).get("total") or 0))
        return cls(**state["spent"]) if "spent" in state else plain


@dataclass(frozen=True)
class Budget:
    """What limits a stage in the place of its number of updates; of nothing given, nothing.

    Fields:
        seconds: of training, on the machine that trains; validation, pictures, evaluation and saving are left out.
        images: that are learnt from, each time that one is counted.
        flops: floating-point operations, 2 a multiply-add, forward and backward.
        cpu_seconds: of training, in which a processor computed: for a shared machine.
    """

    seconds: PositiveFloat | None = None
    images: PositiveInt | None = None
    flops: PositiveFloat | None = None
    cpu_seconds: PositiveFloat | None = None

    def __post_init__(self):
        if len(self._given()) > 1:
            came = " and ".join(f"{name}={value:g}" for name, value in self._given().items())
            raise ValueError(f"a stage ends by one budget, and here are {came}; set the others to null")

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._given())

    @property
    def timed(self) -> bool:
        """Whether a clock decides, which ranks have to agree on."""
        return self.seconds is not None or self.cpu_seconds is not None

    def _given(self) -> dict[str, float | int]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def share(self, spent: Spent) -> float:
        """Which share of the budget was spent; above 1 where more was."""
        ((name, value),) = self._given().items()
        return getattr(spent, name) / value

    def __str__(self) -> str:
        """As a record names it: `120 s`, `100000 images`, `1e+15 FLOPs`."""
        ((name, value),) = self._given().items()
        return f"{value:.12g} {_UNITS[name]}"

    def said(self, spent: Spent) -> str:
        """What was spent of it, as `31.2/120 s`."""
        ((name, _),) = self._given().items()
        return f"{getattr(spent, name):.4g}/{self}"


_UNITS = {"seconds": "s", "images": "images", "flops": "FLOPs", "cpu_seconds": "CPU s"}
