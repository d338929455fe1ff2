"""Signs of life between ranks, so that no rank waits for one that is gone.

A collective waits for all ranks; when one was killed, froze or failed, the others hang in it for the backend's timeout (30
minutes) and then say nothing of who was missing. Here a thread of each rank counts up a number in the key-value store that
the ranks met in, and looks at the others': one that stands still for `limit` seconds of looking, or that has said that it
failed, ends this process, too, with a line that names it: by an error where the collective gives one, by force where it
hangs. Looks are counted and not the clock, so a machine that was suspended as a whole finds all its ranks alive.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import torch.distributed as dist

from ldm.run.signals import FAILED

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds in which a rank may end by its own error, once another is known to be gone
_AGAIN = "The same command goes on from the last checkpoint"


class RankLost(RuntimeError):
    """Another rank failed, was killed or froze; says which."""


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
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(*place, is_master=False)
        self._seen = _Seen()
        self._over, self._known, self._lost = threading.Event(), threading.Event(), ""
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._talk, self._watch)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()

    def failed(self, error: BaseException) -> RankLost | None:
        """This rank ends by `error`: tell the others; or, where a collective failed, say which of them was the cause."""
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            known = self._known.wait(self.interval * (self.looks + 2))
            return RankLost(f"{self._lost}. {_AGAIN}") if known else None
        try:
            self._store.set(_death(self.rank), f"{type(error).__name__}: {error}"[:500])
        except RuntimeError:  # the store went with rank 0
            log.debug("nobody is there to be told", exc_info=True)
        return None

    def _talk(self) -> None:
        """Of the two threads the one that a frozen store can hold up."""
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
        last: dict[int, tuple[bytes, int]] = {}  # rank -> (its last number, looks since it changed)
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
        """What happened to the first rank that is not well."""
        for rank, why in list(self._seen.deaths.items()):
            if rank != self.rank:
                return f"rank {rank} failed: {why}"
        for rank, number in list(self._seen.beats.items()):
            before, still = last.get(rank, (b"", 0))
            last[rank] = (number, 0 if number != before else still + 1)
        silent = sorted(rank for rank, (_, still) in last.items() if still >= self.looks)
        if not silent:
            return None
        # With the store's keeper frozen nobody's number changes, one's own included.
        gone = 0 if self.rank in silent else silent[0]
        return f"rank {gone} has given no sign of life for {self.looks * self.interval:.0f} s"


class _Seen:
    """What the talking thread heard last."""

    def __init__(self) -> None:
        self.beats: dict[int, bytes] = {}
        self.deaths: dict[int, str] = {}


def _life(rank: int) -> str:
    return f"ldm pulse {rank}"


def _death(rank: int) -> str:
    return f"ldm failed {rank}"
