"""A sweep: the same command with several words, one process a job, so that no job's end is another's.

    python train.py -m name=ablation prior=normal,diffusion seed=0,1

makes the runs `ablation/prior-normal_seed-0`, ..., named by the words that the sweep gives several values, in letters that
neither a shell nor Hydra reads as more than letters; `runs/ablation/sweep.json` holds how each ended, `runs/ablation/report/`
has them against each other (ldm.report.several), and the same command goes on: finished jobs are left alone, stopped ones
continue, failed ones are tried again. Hydra's own launcher runs all jobs in one process, which a job that is killed for memory
takes with it, and the first error ends the sweep without a word of the others. Which jobs there are is Hydra's to say
(`ldm.command.launcher`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ldm.command.job_name import job_name, key_of
from ldm.command.words import quoted
from ldm.files import write_json
from ldm.report.collection import collect
from ldm.report.several import several
from ldm.report.written import write
from ldm.run import record
from ldm.run.directory import finished_as
from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED

log = logging.getLogger(__name__)

_STATUS = {FINISHED: "finished", PREEMPTED: "stopped", DIVERGED: "diverged", FAILED: "failed"}
_NUMBERS = 4  # shown in the summary
_WIDE = 36  # letters of a run's name in it that are not wrapped

Row = dict[str, Any]
"""How a job ended: `run`, `words`, `status`, `code`, `seconds`, of one that failed `error`, and what its run was `asked` for."""


def sweep(
    jobs: Sequence[Sequence[str]],
    name: str,
    runs: Path,
    command: Sequence[str],
    common: Collection[str] = (),
    n_jobs: int = 1,
) -> list[Row]:
    """Run each job that is not finished, and show how all ended.

    Arguments:
        jobs: the words of each, as on the command line; `name=` is the sweep's.
        name: of the sweep, a directory below `runs`.
        runs: where run directories are.
        command: what is run with a job's words, as `python train.py`.
        common: the keys of words that all jobs of the sweep share.
        n_jobs: so many processes at once.
    Returns:
        Of each job that was begun, in their order; after a stop no other is begun.
    """
    file = runs / name / "sweep.json"
    done = {row["run"]: row for row in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[int, Row] = {}
    writing = threading.Lock()
    processes = _Processes(command, n_jobs)

    def one(number: int, words: list[str]) -> None:
        run = f"{name}/{job_name(words, common)}"
        row = {"asked": ""} | done.get(run, {})
        stands = row.get("code") == FINISHED and row.get("words") == words and finished_as(runs / run) == row["asked"]
        if not stands:
            if processes.stopped:
                return
            log.info("job %d of %d: %s", number + 1, len(jobs), run.removeprefix(f"{name}/"))
            row = processes.run(number, words, run) | {"asked": finished_as(runs / run)}
        with writing:
            rows[number] = row
            there = [rows[each] for each in sorted(rows)]
            write_json(file, there + [done[key] for key in done.keys() - {each["run"] for each in there}])

    with processes.signals(), ThreadPoolExecutor(n_jobs) as pool:
        for job in [pool.submit(one, number, list(words)) for number, words in enumerate(jobs)]:
            job.result()
    ended = [rows[each] for each in sorted(rows)]
    _show(ended, runs, name)
    _compare(runs / name)
    return ended


def ending(rows: Sequence[Row], jobs: int) -> int:
    """The exit code of a sweep of so many jobs; of those that were not begun there is no row."""
    codes = {row["code"] for row in rows}
    if len(rows) < jobs or PREEMPTED in codes:
        return PREEMPTED
    return FINISHED if codes == {FINISHED} else FAILED


# Processes


class _Processes:
    """The processes of a sweep. What asks the sweep to stop asks all of them, and no other is begun.

    Arguments:
        command: that each process runs with its words.
        n_jobs: how many there are at once. Several share the processor's cores, and each line that they say begins with
            the number of its job.
    """

    def __init__(self, command: Sequence[str], n_jobs: int):
        self._command, self._several, self.stopped = command, n_jobs > 1, False
        self._running: set[subprocess.Popen[str]] = set()
        self._environment = dict(os.environ)
        if self._several:
            self._environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_jobs)))

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

    def run(self, number: int, words: list[str], run: str) -> Row:
        """One job to its end; after one that was stopped the sweep begins no other."""
        start, last = time.monotonic(), deque[str](maxlen=30)
        given = [word for word in words if key_of(word) != "name"]
        command = [*self._command, *given, f"name={quoted(run)}", f"hydra.job.num={number}"]
        out = subprocess.PIPE if self._several else None
        said = {"text": True, "errors": "replace", "env": self._environment}
        with subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, **said) as job:
            self._running.add(job)
            mark = f"[{number + 1}] " if self._several else ""
            echoes = [threading.Thread(target=_echo, args=(job.stderr, sys.stderr, mark, last))]
            if out is not None:
                echoes.append(threading.Thread(target=_echo, args=(job.stdout, sys.stdout, mark, deque(maxlen=0))))
            for echo in echoes:
                echo.start()
            code = job.wait()
            for echo in echoes:
                echo.join()
            self._running.discard(job)
        self.stopped = self.stopped or code == PREEMPTED
        status = _STATUS.get(code, f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")
        row = {
            "run": run,
            "words": words,
            "status": status,
            "code": code,
            "seconds": round(time.monotonic() - start, 1),
        }
        return row | ({} if code in (FINISHED, PREEMPTED) else {"error": _error(last)})


def _echo(stream: Any, onto: Any, mark: str, last: deque[str]) -> None:
    for line in stream:
        last.append(line.rstrip())
        onto.write(mark + line)
        onto.flush()


def _error(last: deque[str]) -> str:
    """What a job's last words say was wrong: from the last line that begins with an error's name."""
    said = [line.strip() for line in last if line.strip() and "HYDRA_FULL_ERROR=1" not in line]
    begin = [i for i, line in enumerate(said) if re.match(r"\w+: ", line)]
    return " ".join(said[begin[-1] :]) if begin else said[-1] if said else "it left no word"


def _compare(folder: Path) -> None:
    """Write the report of the sweep's runs, if there are any. However that goes, the jobs have ended as they have."""
    try:
        found = collect([str(folder)])
        if found.runs:
            log.info("the runs against each other: %s", write(several(found), folder / "report"))
    except OSError as error:
        log.warning("no report of the sweep could be written (%s); ldm report %s writes it", error, folder)


class _Screen(Console):
    """Where the table is shown. A reader that has gone, as `head` of a pipe, changes nothing of how the jobs ended."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


def _show(rows: list[dict[str, Any]], runs: Path, name: str) -> None:
    """A table of the jobs; nothing of it is cut off, and what tells the jobs apart is the last to be wrapped."""
    labels = [row["run"].removeprefix(f"{name}/") for row in rows]
    table = Table(title=escape(str(runs / name)))
    table.add_column("run", overflow="fold", width=min(max(map(len, labels)), _WIDE))
    table.add_column("status", overflow="fold")
    table.add_column("min", justify="right", no_wrap=True)
    table.add_column("numbers, or what went wrong", overflow="fold")
    for label, row in zip(labels, rows, strict=True):
        numbers = record.current(record.read(runs / row["run"] / "records.jsonl"))
        said = row.get("error") or ", ".join(f"{each.metric} {each.value:.4g}" for each in numbers[:_NUMBERS])
        table.add_row(label, row["status"], f"{row['seconds'] / 60:.1f}", escape(said), end_section=len(said) > _WIDE)
    _Screen().print(table)
