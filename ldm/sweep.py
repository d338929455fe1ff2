"""A sweep: the same command with several words, one process a job, so that no job's end is another's.

    python train.py -m name=ablation prior=normal,diffusion seed=0,1

makes the runs `ablation/prior=normal,seed=0`, ...; `runs/ablation/sweep.json` holds how each ended, and the same command
goes on: finished jobs are left alone, stopped ones continue, failed ones are tried again. By itself Hydra runs all jobs in
one process, which a job that is killed for memory takes with it, and the first error ends the sweep without a word
of the others.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ldm.files import write_json
from ldm.run import record
from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED

log = logging.getLogger(__name__)

_STATUS = {FINISHED: "finished", PREEMPTED: "stopped", DIVERGED: "diverged", FAILED: "failed"}
_NUMBERS = 4  # shown in the summary


def sweep(jobs: list[list[str]], runs: Path, script: str) -> int:
    """Run each job that is not finished; the exit code says whether all are.

    Arguments:
        jobs: the words of each, as on the command line of `script`.
        runs: where run directories are.
    """
    name = next((word.partition("=")[2] for word in jobs[0] if word.startswith("name=")), None)
    name = name or f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    file = runs / name / "sweep.json"
    done = {row["run"]: row for row in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else {}
    rows = []
    for words, label in zip(jobs, _labels(jobs), strict=True):
        row = done.get(f"{name}/{label}", {})
        if row.get("code") != FINISHED or row.get("words") != words:
            log.info("job %d of %d: %s", len(rows) + 1, len(jobs), label)
            row = _run([word for word in words if not word.startswith("name=")], f"{name}/{label}", script, words)
        rows.append(row)
        runs.joinpath(name).mkdir(parents=True, exist_ok=True)
        write_json(file, rows + [done[key] for key in done.keys() - {each["run"] for each in rows}])
        if row["code"] == PREEMPTED:
            break
    _show(rows, runs, name)
    codes = {row["code"] for row in rows}
    return FINISHED if codes == {FINISHED} else PREEMPTED if PREEMPTED in codes else FAILED


def _labels(jobs: list[list[str]]) -> list[str]:
    """What each job has of its own: the words that are not the same in all."""
    common = set(jobs[0]).intersection(*jobs[1:])
    own = [",".join(word.removeprefix("++") for word in job if word not in common) for job in jobs]
    return [re.sub(r"[^\w.,=+-]+", "-", label) or "only" for label in own]


def _run(words: list[str], run: str, script: str, asked: list[str]) -> dict[str, Any]:
    start, last = time.monotonic(), deque[str](maxlen=30)
    command = [sys.executable, script, *words, f"name='{run}'"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as job, _passed_on(job):
        echo = threading.Thread(target=_echo, args=(job.stderr, last))
        echo.start()
        code = job.wait()
        echo.join()
    status = _STATUS.get(code, f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")
    row = {"run": run, "words": asked, "status": status, "code": code, "seconds": round(time.monotonic() - start, 1)}
    return row | ({} if code in (FINISHED, PREEMPTED) else {"error": _error(last)})


@contextmanager
def _passed_on(job: subprocess.Popen) -> Iterator[None]:
    """Signals that ask the sweep to stop ask the job."""
    before = {
        number: signal.signal(number, lambda n, _: job.send_signal(n)) for number in (signal.SIGTERM, signal.SIGUSR1)
    }
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the job, too
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _echo(stream: Any, last: deque[str]) -> None:
    for line in stream:
        last.append(line.rstrip())
        sys.stderr.write(line)


def _error(last: deque[str]) -> str:
    """The line of a job's last words that says what was wrong."""
    said = [line for line in last if re.match(r"\w+: ", line)] or [line for line in last if line.strip()]
    return said[-1] if said else "it left no word"


def _show(rows: list[dict[str, Any]], runs: Path, name: str) -> None:
    table = Table("run", "status", "minutes", "numbers, or what went wrong", title=str(runs / name))
    for row in rows:
        numbers = record.read(runs / row["run"] / "records.jsonl")
        said = row.get("error") or ", ".join(f"{each.metric} {each.value:.4g}" for each in numbers[:_NUMBERS])
        table.add_row(row["run"].removeprefix(f"{name}/"), row["status"], f"{row['seconds'] / 60:.1f}", escape(said))
    Console().print(table)
