"""Heartbeats between ranks, so that no rank waits for one that is lost.

A collective waits for all ranks; when one was killed, froze or failed, the others hang in it for the backend's timeout (30
minutes) and then say nothing of who was missing. Here a thread of each rank counts up a number in the key-value store that
the ranks met in, and looks at the others': one that stands still for `limit` seconds of looking, or that has said that it
failed, ends this process, too, with a line that names it: by an error where the collective gives one, by force where it
hangs. Looks are counted and not the clock, so a machine that was suspended as a whole finds all its ranks alive. Of the same
machine one knows more: whose process is gone was killed, and what stands still is killed, since no other signal reaches it and
torch's agent would wait for it for 30 seconds.

torchrun keeps that store in its agent. Where this is gone, nobody is there to start or to end ranks any more: they stop, with
everything saved.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading

import torch.distributed as dist

from ldm.run.signals import FAILED, StopFlag

log = logging.getLogger(__name__)

_INSTANT = 0.5  # seconds
GRACE = 5.0  # seconds in which a rank may end by its own error, once another is known to be gone
_AGAIN = "The same command goes on from the last checkpoint"


class RankLost(RuntimeError):
    """Another rank has failed, was killed or has frozen; the message says which."""


class Pulse:
    """The heartbeat of a rank, and its watch over those of the others.

    Arguments:
        rank, world: which of how many.
        limit: seconds without a sign of life after which a rank counts as gone.
        store: of this run alone, the same for all ranks.
        stop: raised where the agent that started the ranks is gone.
    """

    def __init__(self, rank: int, world: int, limit: float, store: dist.Store, stop: StopFlag):
        self.rank, self.world, self.stop_flag = rank, world, stop
        self.interval = min(5.0, limit / 10)
        self.looks = round(limit / self.interval)
        self._store = store
        store.set(_home(rank), f"{os.getpid()} {socket.gethostname()}")
        homes = [each.decode().split() for each in store.multi_get([_home(other) for other in range(world)])]
        self._near = {i: int(process) for i, (process, host) in enumerate(homes) if host == socket.gethostname()}
        self._dead_before: list[int] = []
        self._seen = _Seen()
        self._over, self._known, self._lost = threading.Event(), threading.Event(), ""
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._talk, self._watch)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """This rank has done its part; it may end before the others."""
        self._over.set()
        with contextlib.suppress(RuntimeError):  # the store went with rank 0
            self._store.set(_leave(self.rank), "")

    def failed(self, error: BaseException) -> RankLost | None:
        """To be called when this rank ends by an error. If the error is that of a collective operation, it returns a RankLost
        that names the rank that caused it. Otherwise it writes for the other ranks that this one has failed, and returns
        None."""
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            for _ in range(round((self.looks + 2) * self.interval / _INSTANT)):
                lost = self._lost if self._known.wait(_INSTANT) else _ended(self._dead())
                if lost is not None:
                    return RankLost(f"{lost}. {_AGAIN}")
            return None
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
                    if self._store.check([_leave(other)]):
                        self._seen.left.add(other)
                    if self._store.check([_death(other)]):
                        self._seen.deaths[other] = self._store.get(_death(other)).decode()
                    if self._store.check([_life(other)]):
                        self._seen.beats[other] = self._store.get(_life(other))
            except RuntimeError as error:
                if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    log.error("the process that started the ranks is gone; they stop")
                    self.stop_flag.raised = True
                else:
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
                os._exit(FAILED)

    def _look(self, last: dict[int, tuple[bytes, int]]) -> str | None:
        """What happened to the first lost rank; None where all are alive."""
        for rank, why in list(self._seen.deaths.items()):
            if rank != self.rank:
                return f"rank {rank} failed: {why}"
        dead, before = self._dead(), self._dead_before
        self._dead_before = dead
        if dead and before:  # a look later, so that one that has just left has been heard of
            return _ended(dead)
        for rank, number in list(self._seen.beats.items()):
            before, still = last.get(rank, (b"", 0))
            last[rank] = (number, 0 if number != before else still + 1)
        silent = sorted(rank for rank, (_, still) in last.items() if still >= self.looks)
        if not silent:
            return None
        # If rank 0, which keeps the store, is frozen, no heartbeat changes, also not one's own.
        gone = 0 if self.rank in silent else silent[0]
        self._end(gone)
        return f"rank {gone} has given no sign of life for {self.looks * self.interval:.0f} s"

    def _end(self, other: int) -> None:
        """Kill a rank that is frozen, where it is of this machine."""
        if other in self._near:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._near[other], signal.SIGKILL)

    def _dead(self) -> list[int]:
        """The ranks of this machine whose process is not there any more, and that have not left."""
        return [rank for rank, process in self._near.items() if rank not in self._seen.left and not _runs(process)]


class _Seen:
    """What the thread that uses the store has read last: heartbeats, and reasons of failure, by rank."""

    def __init__(self) -> None:
        self.beats: dict[int, bytes] = {}
        self.deaths: dict[int, str] = {}
        self.left: set[int] = set()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _ended(ranks: list[int]) -> str | None:
    return f"rank {ranks[0]} was killed, or ended without a word" if ranks else None


def _home(rank: int) -> str:
    return f"process {rank}"


def _life(rank: int) -> str:
    return f"pulse {rank}"


def _leave(rank: int) -> str:
    return f"left {rank}"


def _death(rank: int) -> str:
    return f"failed {rank}"
