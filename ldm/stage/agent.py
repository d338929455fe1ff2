"""Ranks started by torch's elastic agent, the same that `torchrun` is: one process a device, ended together when one is lost.

    python train.py trainer.devices=8      is      torchrun --standalone --nproc-per-node=8 train.py

but for three things. Each rank calls a function with the config that was composed once, so that the ranks of a sweep's job
need no command line of their own. The exit code is the run's: the agent itself knows success and failure, and makes 1 of all
else. And a signal to the agent is passed on to the ranks as it came, SIGUSR1 too, and they have the time that saving takes;
the agent's own handling kills them after 30 seconds. What the ranks say of each other is the same under either
(ldm.stage.pulse).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from typing import TypeVar

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ldm.run.signals import FAILED, FINISHED, PREEMPTED, SIGNALS

Work = TypeVar("Work")

_ELSEWHERE = ("LOCAL_RANK", "TORCHELASTIC_", "SLURM_", "LSB_", "OMPI_", "PMI_", "KUBERNETES_")


class RanksEnded(RuntimeError):
    """A rank was killed, and the others ended with it; says which."""


def started_elsewhere() -> bool:
    """Whether something in the environment may have started this process as one of several: torchrun, SLURM, MPI."""
    return any(name.startswith(_ELSEWHERE) for name in os.environ)


def launch(count: int, run: Callable[[Work], int], work: Work, preload: Sequence[str] = ()) -> int:
    """`run(work)` in so many processes, each a rank as `torchrun` makes it; the exit code of the first that failed, else of
    rank 0.

    Arguments:
        run: a function of a module; gives an exit code, having said what was wrong where it is an error's.
        work: what it is given; has to be picklable.
        preload: modules that a rank will need. They are imported once, by a process that the ranks are forked from and that
            touches no device.

    Raises:
        RanksEnded: a rank ended without a word.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # to ask for GPUs starts none, which a fork would not survive
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # what they say of a failure is said here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _start_server(preload)
    with _signals_passed_on(), tempfile.TemporaryDirectory(prefix="ldm-ranks-") as folder:
        chosen = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            logs_specs=DefaultLogsSpecs(folder),
            run_id="ldm",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method="forkserver",
            signals_to_handle="SIGQUIT",
        )
        try:
            codes = elastic_launch(chosen, _rank)(run, work, sys.orig_argv)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                raise RanksEnded(
                    f"rank {rank} was ended by {failure.signal_name()}, and the others with it. The same command goes on "
                    "from the last checkpoint"
                ) from error
            return failure.exitcode
    return codes[0]


def _start_server(preload: Sequence[str]) -> None:
    """The process that ranks are forked from. It is not to end by signals to the whole job, for it tells how they ended."""
    multiprocessing.set_forkserver_preload(["__main__", *preload])
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    forkserver.ensure_running()
    for number, handler in before.items():
        signal.signal(number, handler)


def _rank(run: Callable[[Work], int], work: Work, command: list[str]) -> int:
    sys.orig_argv = command
    _by_default()
    try:
        code = run(work)
    except Exception:  # what `run` did not say itself, as a module that cannot be imported; the agent would keep it
        traceback.print_exc()
        print(
            "a rank ended before it could begin, for the reason above; trainer.devices=1 shows it without other ranks",
            file=sys.stderr,
            flush=True,
        )
        code = FAILED
    _by_default()  # from here on it waits for the agent, and has nothing to save
    threading.Thread(target=_end_with_agent, args=(code,), daemon=True).start()
    if code not in (FINISHED, PREEMPTED):
        sys.exit(code)  # a failure to the agent, which ends the others
    return code


def _end_with_agent(code: int) -> None:
    multiprocessing.parent_process().join()
    os._exit(code)


def _by_default() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Signals that ask this process to stop ask the ranks."""
    before = {number: signal.signal(number, _pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(number: int, frame: object) -> None:
    ranks = multiprocessing.active_children()
    if not ranks:
        sys.exit(128 + number)
    for each in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, number)
