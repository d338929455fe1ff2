"""What a data worker does with signals and threads.

A scheduler that wants a job to stop signals the whole process group. The training process then finishes its step and
saves, for which it needs its workers: they ignore the signals that it handles. SIGTERM from the training process itself
is how a worker is told to go, and only its sender tells the two apart, so a thread waits for the signal and looks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import torch

_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def begin(worker: int) -> None:
    """Called first in a worker process."""
    torch.set_num_threads(1)  # one per core is made by having workers; nested threads fight over them
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "linux":  # no sigwaitinfo; a group's SIGTERM then ends the workers with it
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    while True:
        sent = signal.sigwaitinfo({signal.SIGTERM})
        if sent.si_pid == parent:
            os._exit(0)
