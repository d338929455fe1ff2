"""Heartbeats between ranks, so that no rank waits for one that is lost.

A collective operation waits for all ranks. When one of them was killed, has frozen or has failed, the others wait for the
timeout of the backend (30 minutes), and then do not know which one was missing. Therefore each rank has a thread that
increments a number, its heartbeat, in the key-value store through which the ranks have found each other, and that reads the
heartbeats of the others. A rank is lost if its heartbeat has not changed for `limit` seconds, or if it has written that it
failed. Then the other ranks end as well, with a message that names the lost one. If the collective raises an error, the process
ends by this error; if it hangs, the process is killed. The seconds are those of the reading thread, which counts how often it
has read and does not look at a clock. So after a machine was suspended as a whole, all of its ranks are still found alive.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import torch.distributed as dist

from ldm.run.signals import FAILED

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds in which a rank can end by its own error, once another one is known to be lost
_AGAIN = "The same command goes on from the last checkpoint"


class RankLost(RuntimeError):
    """Another rank has failed, was killed or has frozen; the message says which."""


class Pulse:
    """The heartbeat of a rank, and its watch over those of the others.

    Arguments:
        rank, world: number of this rank, and number of ranks.
        limit: seconds without a heartbeat after which a rank counts as lost.
        last_act: called before this process is killed, to end the ranks that it has started.
    """

    def __init__(self, rank: int, world: int, limit: float, last_act: Callable[[], None]):
        self.rank, self.world, self.last_act = rank, world, last_act
        self.interval = min(5.0, limit / 10)
        self.looks = round(limit / self.interval)
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(*place, is_master=False)
        self._seen = _Seen()
        self._over, self._known, self._lost = threading.Event(), threading.Event(), ""
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._talk, self._watch)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._over.set()

    def failed(self, error: BaseException) -> RankLost | None:
        """To be called when this rank ends by an error. If the error is that of a collective operation, it returns a RankLost
        that names the rank that caused it. Otherwise it writes for the other ranks that this one has failed, and returns
        None."""
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            known = self._known.wait(self.interval * (self.looks + 2))
            return RankLost(f"{self._lost}. {_AGAIN}") if known else None
        try:
            self._store.set(_death(self.rank), f"{type(error).__name__}: {error}"[:500])
        except RuntimeError:  # the store has ended with rank 0
            log.debug("nobody is there to be told", exc_info=True)
        return None

    def _talk(self) -> None:
        """The thread that uses the store. It hangs where the process that keeps the store is frozen; the other one does not."""
        beats = 0
        while not self._over.wait(self.interval):
            beats += 1
            try:
                self._store.set(_life(self.rank), str(beats))
                for other in range(self.world):
                    if self._store.check([_death(other)]):
                        self._seen.deaths[other] = self._store.get(_death(other)).decode()
                    if self._store.check([_life(other)]):
                        self._seen.beats[other] = self._store.get(_life(other))
            except RuntimeError as error:
                self._seen.deaths.setdefault(0, f"it kept the ranks together ({str(error).splitlines()[0][:80]})")
                return

    def _watch(self) -> None:
        # By rank: its last heartbeat, and how often it was read since it changed.
        last: dict[int, tuple[bytes, int]] = {}
        while not self._over.wait(self.interval):
            lost = self._look(last)
            if lost is None:
                continue
            self._lost = lost
            self._known.set()
            if not self._over.wait(GRACE):
                log.error("%s; ending rank %d. %s", lost, self.rank, _AGAIN)
                self.last_act()
                os._exit(FAILED)

    def _look(self, last: dict[int, tuple[bytes, int]]) -> str | None:
        """What happened to the first lost rank; None where all are alive."""
        for rank, why in list(self._seen.deaths.items()):
            if rank != self.rank:
                return f"rank {rank} failed: {why}"
        for rank, number in list(self._seen.beats.items()):
            before, still = last.get(rank, (b"", 0))
            last[rank] = (number, 0 if number != before else still + 1)
        silent = sorted(rank for rank, (_, still) in last.items() if still >= self.looks)
        if not silent:
            return None
        # If rank 0, which keeps the store, is frozen, no heartbeat changes, also not one's own.
        gone = 0 if self.rank in silent else silent[0]
        return f"rank {gone} has given no sign of life for {self.looks * self.interval:.0f} s"


class _Seen:
    """What the thread that uses the store has read last: heartbeats, and reasons of failure, by rank."""

    def __init__(self) -> None:
        self.beats: dict[int, bytes] = {}
        self.deaths: dict[int, str] = {}


def _life(rank: int) -> str:
    return f"ldm pulse {rank}"


def _death(rank: int) -> str:
    return f"ldm failed {rank}"
