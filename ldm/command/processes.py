"""The processes of a sweep's jobs: started with a share of the machine, heard, asked to stop together; and how they ended."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED, PRUNED

STATUS = {
    **{FINISHED: "finished", PREEMPTED: "stopped", PRUNED: "pruned"},
    **{DIVERGED: "diverged", FAILED: "failed"},
}
"""What an exit code is called."""

FINE = (FINISHED, PREEMPTED, PRUNED)
"""Exit codes with which nothing went wrong."""


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code, what that is called, seconds, and what it said was wrong."""

    code: int
    status: str
    seconds: float
    error: str | None


class Processes:
    """The processes of a sweep. What asks the sweep to stop asks all of them, and no other is begun.

    Arguments:
        command: that each process runs with its words.
        shares: what the environment of each of several at once holds of its own, as its device; a job that begins takes a share
            that none has. Several share the processor's cores, and each line that they say begins with the number of its job.
        heard: whether what they say is shown.
    Attributes:
        stopped: whether the sweep was asked to stop.
    """

    def __init__(self, command: Sequence[str], shares: Sequence[Mapping[str, str]], heard: bool = True):
        self._command, self._several, self._heard, self.stopped = command, len(shares) > 1, heard, False
        self._running: set[subprocess.Popen[str]] = set()
        self._environment = dict(os.environ)
        if self._several:
            self._environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(shares))))
        self._free: queue.Queue[Mapping[str, str]] = queue.Queue()
        for share in shares:
            self._free.put(share)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """In this block signals that ask the sweep to stop are passed on. A terminal sends SIGINT to the jobs itself."""
        before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: setattr(self, "stopped", True))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: object) -> None:
        self.stopped = True
        for process in list(self._running):
            process.send_signal(number)

    def run(self, number: int, words: Sequence[str]) -> Ended:
        """One job to its end; after one that was stopped the sweep begins no other."""
        share = self._free.get()
        try:
            return self._run(number, words, share)
        finally:
            self._free.put(share)

    def _run(self, number: int, words: Sequence[str], share: Mapping[str, str]) -> Ended:
        start, last = time.monotonic(), deque[str](maxlen=30)
        out = None if self._heard and not self._several else subprocess.PIPE if self._heard else subprocess.DEVNULL
        said = {"text": True, "errors": "replace", "env": {**self._environment, **share}}
        with subprocess.Popen([*self._command, *words], stdout=out, stderr=subprocess.PIPE, **said) as job:
            self._running.add(job)
            mark = f"[{number + 1}] " if self._several else ""
            streams = [(job.stderr, sys.stderr, last), (job.stdout, sys.stdout, deque(maxlen=0))]
            echoes = [
                threading.Thread(target=_echo, args=(stream, onto if self._heard else None, mark, kept))
                for stream, onto, kept in streams
                if stream is not None
            ]
            for echo in echoes:
                echo.start()
            code = job.wait()
            for echo in echoes:
                echo.join()
            self._running.discard(job)
        self.stopped = self.stopped or code == PREEMPTED
        status = STATUS.get(code, f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")
        return Ended(code, status, round(time.monotonic() - start, 1), None if code in FINE else error_of(last))


def _echo(stream: Any, onto: Any, mark: str, last: deque[str]) -> None:
    for line in stream:
        last.append(line.rstrip())
        if onto is not None:
            onto.write(mark + line)
            onto.flush()


def error_of(last: Sequence[str]) -> str:
    """What a job's last words say was wrong: from the last line that begins with an error's name."""
    said = [line.strip() for line in last if line.strip() and "HYDRA_FULL_ERROR=1" not in line]
    begin = [i for i, line in enumerate(said) if re.match(r"\w+: ", line)]
    return " ".join(said[begin[-1] :]) if begin else said[-1] if said else "it left no word"
