"""How a run ends: its exit codes, and signals as a flag. The handler notes that the run is to stop and returns; the step in
work ends first.

The first SIGTERM, SIGINT or SIGUSR1 asks for a stop, the second one ends the process at once. What comes within two seconds
of the first is the first once more: a signal to a whole job reaches a rank directly and by way of the process that started it.
Ranks agree on the stop, at the end of a step, over a gloo group of their own: no device is synchronised and no rank is left
in a collective.
"""

from __future__ import annotations

import os
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
FINISHED, FAILED, DIVERGED, PREEMPTED, PRUNED = 0, 1, 3, 75, 76
_ONE = 2.0  # seconds in which several signals are one


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class Diverged(RuntimeError):
    """Too many updates in a row had a gradient that is not finite, or a weight is not."""


class StopFlag:
    """Whether this process, or any rank, was asked to stop.

    Attributes:
        raised: whether a signal came to this process.
    """

    def __init__(self) -> None:
        self.raised = False
        self._group = None
        self._first = 0.0  # when the first signal came

    def _handle(self, number: int, frame: object) -> None:
        if not self.raised:
            self.raised, self._first = True, time.monotonic()
        elif time.monotonic() - self._first > _ONE:
            os._exit(128 + number)

    def install(self) -> None:
        """Take the signals; called again where a library has taken them since."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Stopped, on all ranks, where any of them was asked to stop; a collective call."""
        if self.agreed():
            raise Stopped

    def agreed(self, asked: bool = False) -> bool:
        """Whether any rank was asked to stop, by a signal or as `asked` says: the same answer on all ranks; a collective call."""
        import torch  # here, for whoever starts jobs alone wants the exit codes and no torch
        import torch.distributed as dist

        asked = asked or self.raised
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return asked
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        flag = torch.tensor([int(asked)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())
