"""Signs of life between ranks, so that no rank waits for one that is gone.

A collective waits for all ranks; when one was killed, froze or failed, the others hang in it for the backend's timeout (30
minutes) and then say nothing of who was missing. Here a thread of each rank counts up a number in the key-value store that
the ranks met in, and looks at the others': one that stands still for `limit` seconds of looking, or that has said that it
failed, ends this process, too, with a line that names it. Looks are counted and not the clock, so a machine that was
suspended as a whole finds all its ranks alive.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import torch.distributed as dist

from ldm.run.signals import FAILED

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds in which a rank may end by its own error, after another said that it failed


class Pulse:
    """
    Arguments:
        rank, world: which of how many.
        limit: seconds without a sign of life after which a rank counts as gone.
        last_act: what to do before the process ends (end the ranks that it started).
    """

    def __init__(self, rank: int, world: int, limit: float, last_act: Callable[[], None]):
        self.rank, self.world, self.last_act = rank, world, last_act
        self.interval = min(5.0, limit / 10)
        self.looks = round(limit / self.interval)
        self._store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._store.set(_life(self.rank), "0")
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(self.interval + GRACE)

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends."""
        try:
            self._store.set(_death(self.rank), f"{type(error).__name__}: {error}"[:500])
        except RuntimeError:  # the store went with rank 0
            log.debug("nobody is there to be told", exc_info=True)

    def _watch(self) -> None:
        seen: dict[int, tuple[bytes, int]] = {}  # rank -> (its last number, looks since it changed)
        beats = 0
        while not self._over.wait(self.interval):
            beats += 1
            try:
                self._store.set(_life(self.rank), str(beats))
                lost = self._lost(seen)
            except RuntimeError as error:
                lost = f"rank 0, which keeps the ranks together, is gone ({str(error).splitlines()[0][:100]})"
            if lost is not None and not self._over.wait(GRACE if "failed" in lost else 0):
                log.error("%s; ending rank %d. Start the same command again to go on", lost, self.rank)
                self.last_act()
                os._exit(FAILED)

    def _lost(self, seen: dict[int, tuple[bytes, int]]) -> str | None:
        """What happened to the first rank that is not well."""
        for other in range(self.world):
            if other == self.rank or not self._store.check([_life(other)]):  # not there yet
                continue
            if self._store.check([_death(other)]):
                return f"rank {other} failed: {self._store.get(_death(other)).decode()}"
            number = self._store.get(_life(other))
            last, still = seen.get(other, (b"", 0))
            seen[other] = (number, 0 if number != last else still + 1)
            if seen[other][1] >= self.looks:
                return f"rank {other} has given no sign of life for {self.looks * self.interval:.0f} s"
        return None


def _life(rank: int) -> str:
    return f"ldm pulse {rank}"


def _death(rank: int) -> str:
    return f"ldm failed {rank}"
