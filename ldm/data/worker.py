"""How data workers handle signals and threads.

A scheduler that stops a job sends a signal to the whole process group. The training process then finishes its step and
saves, and for that it needs its workers, so they ignore the signals that the training process handles. But the training
process itself ends its workers by SIGTERM, too. The two differ only in their sender, so a thread waits for SIGTERM and looks
who sent it. A worker starts with these signals blocked, because one may arrive before its first line runs.
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
    """The function that every worker process calls first; `worker` is its number."""
    torch.set_num_threads(1)  # the workers together use all cores already
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
    """The platform's default multiprocessing context, with the change that processes start with the signals blocked."""
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
