"""What a data worker does with signals and threads.

A scheduler that wants a job to stop signals the whole process group. The training process then finishes its step and
saves, for which it needs its workers: they ignore the signals that it handles. SIGTERM from the training process
itself is how a worker is told to go, and only its sender tells the two apart, so a thread waits for the signal and
looks. A worker starts with these signals blocked, since one can come before its first line runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext

import torch

_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_HELD = {*_IGNORED, signal.SIGTERM}


def begin(worker: int) -> None:
    """Called first in a worker process."""
    torch.set_num_threads(1)  # one per core is made by having workers; nested threads fight over them
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "linux":  # no sigwaitinfo; a group's SIGTERM then ends the workers with it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    while True:
        sent = signal.sigwaitinfo({signal.SIGTERM})
        if sent.si_pid == parent:
            os._exit(0)


def context() -> BaseContext:
    """The platform's way to make processes, made to start them with the signals blocked."""
    usual = multiprocessing.get_context(multiprocessing.get_start_method())

    class Worker(usual.Process):
        def start(self) -> None:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    class Context(type(usual)):
        Process = Worker

    return Context()
