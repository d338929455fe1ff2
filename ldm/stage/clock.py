"""The time that a stage has trained: what happens between updates (pictures, validation, evaluation, saving) is left out of it.

A device computes behind its host, which is as far ahead as its queue is long. Whoever asks what time it is before it has waited
for the device asks for the host's; at each log it has.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist


class Clock:
    """Counts training alone. It runs from `go_on` to `tick`, which may be called at any time between.

    Attributes:
        seconds: of training up to the last tick, those of an earlier process among them.
        cpu_seconds: of these, in which this process computed, of all of its threads together.
        wait: of these since the last `lap`, what was spent waiting for data.
    """

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds, self.wait = 0.0, 0.0, 0.0
        self._lap = self._mark = self._cpu_mark = 0.0
        self._hosts: dist.ProcessGroup | None = None

    def begin(self) -> None:
        """Start with the first update of a process; the first lap begins."""
        self._lap = self.seconds
        self.go_on()

    def go_on(self) -> None:
        """Leave out what happened since the last tick."""
        self._mark, self._cpu_mark = time.monotonic(), time.process_time()

    def tick(self) -> None:
        """Add what has passed since the last tick or `go_on`."""
        now, cpu = time.monotonic(), time.process_time()
        self.seconds += now - self._mark
        self.cpu_seconds += cpu - self._cpu_mark
        self._mark, self._cpu_mark = now, cpu

    def agree(self) -> None:
        """Tick, and take rank 0's seconds on all ranks, so that all end with the same update; a collective call of hosts, for
        which no device waits."""
        self.tick()
        if dist.is_initialized() and dist.get_world_size() > 1:
            if self._hosts is None:
                self._hosts = dist.new_group(backend="gloo")
            box = torch.tensor([self.seconds, self.cpu_seconds], dtype=torch.float64)
            dist.broadcast(box, 0, group=self._hosts)
            self.seconds, self.cpu_seconds = box.tolist()

    def waited(self, seconds: float) -> None:
        """Be told of time that was spent waiting for data."""
        self.wait += seconds

    def lap(self) -> tuple[float, float]:
        """Seconds of training since the last lap, and the share of them that was spent waiting for data."""
        self.tick()
        passed, self._lap = max(self.seconds - self._lap, 1e-9), self.seconds
        share, self.wait = self.wait / passed, 0.0
        return passed, share
