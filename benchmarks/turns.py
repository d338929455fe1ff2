"""Contestants of a benchmark take turns in one process, so that what else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def race(
    works: Sequence[Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float],
    warm: int = 2,
    synchronize: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Seconds of each in every round, in turned order in every second round.

    Arguments:
        warm: runs of each before the first round, which do not count.
        synchronize: waits for the device.
    """
    times: list[list[float]] = [[] for _ in works]
    for work in works:
        for _ in range(warm):
            work()
    for round_ in range(rounds):
        order = range(len(works)) if round_ % 2 == 0 else reversed(range(len(works)))
        for i in order:
            synchronize()
            start = clock()
            works[i]()
            synchronize()
            times[i].append(clock() - start)
    return times
