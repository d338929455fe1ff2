"""The floating-point operations that a stage has spent on its updates, 2 a multiply-add: those of matrix products,
convolutions and attention, forward and backward, of all players and ranks, by the formulas of torch's FlopCounterMode.

What an update costs follows from shapes, and changes only where a game changes its rules on the way (a critic that begins
later). So updates 1, 2, 4, 8, ... are counted as they are made and each counts for those up to the next. This computes nothing
twice and draws no random number; networks that torch has compiled are called as they are written in these updates, because
what is compiled is not heard.

What makes it wrong: kernels that torch has no formula for, as a package's own attention, count as nothing; a prior whose
updates differ in length, as an adaptive solver, is counted by single updates.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ldm.cost import FlopCounter, uncompiled

if TYPE_CHECKING:
    from ldm.stage.stage import Stage


class Flops:
    """Those of the updates of one stage.

    Attributes:
        total: of all updates that are done, over all ranks; None where a checkpoint of an older version did not say.
        rate: of the last update that was counted.
    """

    def __init__(self) -> None:
        self.total: int | None = 0
        self.rate = 0
        self._counting = 0  # of the update under way, on this rank

    @contextlib.contextmanager
    def of_micro_batch(self, update: int, ranks: int, networks: Callable[[], Sequence[nn.Module]]) -> Iterator[None]:
        """Within the block a micro-batch of update `update`, counted from 1, is computed, on this rank as on `ranks` in all.

        Arguments:
            networks: gives those that may be compiled.
        """
        if update & (update - 1):
            yield
            return
        with uncompiled(networks()), FlopCounter() as counter:
            yield
        self._counting += counter.total
        self.rate = self._counting * ranks

    def update_done(self) -> None:
        """The last micro-batch of an update has been computed."""
        self._counting = 0
        if self.total is not None:
            self.total += self.rate

    def state_dict(self) -> dict[str, int | None]:
        """The state for a checkpoint."""
        return {"total": self.total, "rate": self.rate}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Go on from a state; of {}, which an older checkpoint has, nothing is known."""
        self.total, self.rate, self._counting = state.get("total"), state.get("rate", 0), 0


Step = Callable[["Stage", dict[str, Any], int], Any]


def metered(step: Step) -> Step:
    """A stage's training step, whose operations the stage's `flops` counts."""

    @functools.wraps(step)
    def metered_step(stage: Stage, batch: dict[str, Any], index: int) -> Any:
        done = stage.updates
        with stage.flops.of_micro_batch(done + 1, stage.trainer.world_size, stage.to_compile):
            told = step(stage, batch, index)
        if stage.updates > done:
            stage.flops.update_done()
        return told

    return metered_step
