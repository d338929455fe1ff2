"""A sweep: the same command with several words, one process a job, so that no job's end is another's.

    python train.py -m name=ablation prior=normal,diffusion seed=0,1

makes the runs `ablation/prior-normal_seed-0`, ..., named by what each has of its own, in letters that neither a shell nor
Hydra reads as more than letters; `runs/ablation/sweep.json` holds how each ended, and the same command goes on: finished
jobs are left alone, stopped ones continue, failed ones are tried again. By itself Hydra runs all jobs in one process, which
a job that is killed for memory takes with it, and the first error ends the sweep without a word of the others.
"""

from __future__ import annotations

import hashlib
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ldm.command.words import quoted, unquoted
from ldm.files import write_json
from ldm.run import record
from ldm.run.signals import DIVERGED, FAILED, FINISHED, PREEMPTED

log = logging.getLogger(__name__)

_STATUS = {FINISHED: "finished", PREEMPTED: "stopped", DIVERGED: "diverged", FAILED: "failed"}
_NUMBERS = 4  # shown in the summary
_WIDE = 36  # letters of a run's name in it that are not wrapped
_END = 40  # letters of a word in a run's name: of a long path its end
_LONGEST = 120  # letters of a run's name; a file system takes 255 bytes


def sweep(jobs: list[list[str]], runs: Path, command: Sequence[str]) -> int:
    """Run each job that is not finished; the exit code says whether all are.

    Arguments:
        jobs: the words of each.
        runs: where run directories are.
        command: what is run with a job's words, as `python train.py`.
    """
    names = {word for words in jobs for word in words if word.startswith("name=")}
    if len(names) > 1:
        raise ValueError(
            f"name= is of the whole sweep, whose jobs are told apart by their words; got {len(names)} names"
        )
    name = unquoted(names.pop().removeprefix("name=")) if names else ""
    name = name or f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    file = runs / name / "sweep.json"
    done = {row["run"]: row for row in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else {}
    rows = []
    for words, label in zip(jobs, _labels(jobs), strict=True):
        row = done.get(f"{name}/{label}", {})
        stands = row.get("code") == FINISHED and row.get("words") == words and _finished(runs / name / label)
        if not stands:
            log.info("job %d of %d: %s", len(rows) + 1, len(jobs), label)
            row = _run([word for word in words if not word.startswith("name=")], f"{name}/{label}", command, words)
        rows.append(row)
        runs.joinpath(name).mkdir(parents=True, exist_ok=True)
        write_json(file, rows + [done[key] for key in done.keys() - {each["run"] for each in rows}])
        if row["code"] == PREEMPTED:
            break
    _show(rows, runs, name)
    codes = {row["code"] for row in rows}
    return FINISHED if codes == {FINISHED} else PREEMPTED if PREEMPTED in codes else FAILED


def _finished(run: Path) -> bool:
    """Whether a run says so itself: it may have been removed since, or trained on."""
    file = run / "run.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["status"] == "finished"


def _labels(jobs: list[list[str]]) -> list[str]:
    """What each job has of its own, the words that are not the same in all, as the name of a directory.

    Where a name would not hold all of a word (another letter stands for `/`, or it is too long) a hash of the words ends it,
    so that no two jobs have one name, and a job has the same whatever other jobs there are.
    """
    common = set(jobs[0]).intersection(*jobs[1:])
    labels = [_label([word.lstrip("+") for word in job if word not in common]) for job in jobs]
    twice = {label for label in labels if labels.count(label) > 1}
    return [f"{label}-{_hash(job)}" if label in twice else label for label, job in zip(labels, jobs, strict=True)]


def _label(words: list[str]) -> str:
    told = [(key, unquoted(value)) for key, _, value in (word.partition("=") for word in words)]
    label = "_".join(f"{_plain(key, '.')}-{_plain(value, '-')}" for key, value in told) or "only"
    if len(label) <= _LONGEST and all(_plain(value, "-") == value for _, value in told):
        return label
    return f"{label[:_LONGEST]}-{_hash(words)}"


def _plain(text: str, other: str) -> str:
    """A text in letters that need no quotes in a shell or in Hydra's grammar."""
    changed = re.sub(r"[^\w.-]+", other, text, flags=re.ASCII)
    return text if changed == text and len(text) <= _END else changed.strip(other)[-_END:]


def _hash(words: list[str]) -> str:
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def _run(words: list[str], run: str, command: Sequence[str], asked: list[str]) -> dict[str, Any]:
    start, last = time.monotonic(), deque[str](maxlen=30)
    whole = [*command, *words, f"name={quoted(run)}"]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True, errors="replace") as job, _passed_on(job):
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
    """What a job's last words say was wrong: from the last line that begins with an error's name."""
    said = [line.strip() for line in last if line.strip() and "HYDRA_FULL_ERROR=1" not in line]
    begin = [i for i, line in enumerate(said) if re.match(r"\w+: ", line)]
    return " ".join(said[begin[-1] :]) if begin else said[-1] if said else "it left no word"


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
