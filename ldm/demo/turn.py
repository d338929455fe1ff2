"""A visitor's turn: work in a thread of its own that tells what it has so far, and that ends between two steps.

Nothing can end a step of a network from outside without leaving a model half way, so a turn asks before each call of a network
whether it is still wanted and still has time. A prior that asks its network once cannot be ended, and need not be.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class Ended(Exception):
    """A turn is over before its work is done; the message says why."""


class Turn(Generic[T]):
    """One piece of work, followed.

    Arguments:
        work: called with a function that tells what there is so far; gives what it comes to.
        seconds: that it may take from its beginning on.
        networks: before each of whose calls it may end.
        free: held while the work is done: one model does one thing at a time.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        work: Callable[[Callable[[T], None]], T],
        seconds: float | int,
        networks: Sequence[nn.Module],
        free: threading.Lock,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.work, self.seconds, self.networks, self.free, self.clock = work, seconds, networks, free, clock
        self.unwanted = threading.Event()
        self._told: queue.SimpleQueue[tuple[T | None, BaseException | None, bool]] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[T]:
        """What the work tells of, the newest where it is faster than its reader, and last what it comes to. Raises what it
        raises, and `Ended`. Who stops reading ends the work."""
        thread = threading.Thread(target=self._run, name="turn", daemon=True)
        thread.start()
        try:
            last = False
            while not last:
                told, error, last = self._newest()
                if error is not None:
                    raise error
                yield told
        finally:
            self.unwanted.set()
            thread.join()

    def _newest(self) -> tuple[T | None, BaseException | None, bool]:
        found = self._told.get()
        while not self._told.empty():
            found = self._told.get()
        return found

    def _run(self) -> None:
        try:
            with self.free:
                end = self.clock() + self.seconds
                with between_calls(self.networks, lambda: self._check(end)):
                    done = self.work(lambda told: self._told.put((told, None, False)))
            self._told.put((done, None, True))
        except BaseException as error:  # of another thread: raised where the turn is read
            self._told.put((None, error, True))

    def _check(self, end: float) -> None:
        if self.unwanted.is_set():
            raise Ended("Stopped.")
        if self.clock() > end:
            raise Ended(
                f"Stopped after {self.seconds:g} seconds, the most that one drawing may take here: ask for fewer images or "
                "fewer steps."
            )


@contextmanager
def between_calls(networks: Sequence[nn.Module], check: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `check` before each call of a network; what it raises ends the call."""
    hooks = [network.register_forward_pre_hook(lambda *_: check()) for network in networks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
