"""The table of a sweep: on a terminal while it runs, one line a job, and anywhere at its end.

What a job has done is read off its run directory: updates done of those planned and the newest number off the last lines of
`metrics.jsonl`. So nothing is asked of a job, and what it says goes to its run's `log.txt` while the table is shown.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ldm.run import record

Row = dict[str, Any]
"""A job: `run`, `words`, `status`, `code`, `seconds`, of one that failed `error`, and what its run was `asked` for."""

RUNNING = "running"

_NUMBERS = 4  # of a job, at the end
_LIVE = 30  # letters of a run's name while the sweep runs
_WIDE = 36  # letters of a run's name that are not wrapped
_TAIL = 1 << 14  # bytes of a journal's end, some hundred lines
_AROUND = 6  # lines of a terminal that the table leaves free


class Board:
    """The jobs of a sweep, in the order in which they were begun.

    Arguments:
        runs: where run directories are.
        name: of the sweep, a directory below it.
        objective: records whose newest values are shown first.
        clock: seconds, from any origin.
    """

    def __init__(
        self, runs: Path, name: str, objective: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ):
        self.runs, self.name, self.objective, self._clock = runs, name, objective, clock
        self._rows: dict[str, Row] = {}
        self._begun: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """The directory of the sweep."""
        return self.runs / self.name

    @property
    def rows(self) -> list[Row]:
        """All so far."""
        with self._lock:
            return list(self._rows.values())

    def begin(self, run: str) -> None:
        """A job begins."""
        with self._lock:
            self._rows.pop(run, None)
            self._rows[run] = {"run": run, "status": RUNNING, "seconds": 0.0}
            self._begun[run] = self._clock()

    def end(self, row: Row) -> None:
        """A job has ended, or had before."""
        with self._lock:
            self._rows[row["run"]] = row

    @contextmanager
    def shown(self, console: Console) -> Iterator[None]:
        """In this block the table is on a terminal; elsewhere nothing is shown."""
        if not console.is_terminal:
            yield
            return
        with Live(
            get_renderable=lambda: self.live(console.height), console=console, refresh_per_second=2, transient=True
        ):
            yield

    def live(self, height: int) -> Table:
        """The table of now: what runs, and of what has ended the last, as many as fit into so many lines."""
        rows = self.rows
        counts = ", ".join(f"{count} {status}" for status, count in Counter(row["status"] for row in rows).items())
        table = Table(
            title=escape(str(self.folder)), caption=counts, expand=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("run", no_wrap=True, width=min(_LIVE, max(map(len, map(self._label, rows)), default=0)))
        table.add_column("status", no_wrap=True)
        table.add_column("updates", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("newest", overflow="ellipsis", no_wrap=True, ratio=1)
        running = [row for row in rows if row["status"] == RUNNING]
        ended = [row for row in rows if row["status"] != RUNNING]
        room = max(0, height - _AROUND - len(running))
        for row in [*ended[len(ended) - room :], *running] if room else running:
            seconds = row["seconds"] if row["status"] != RUNNING else self._clock() - self._begun[row["run"]]
            done, newest = standing(self.runs / row["run"], self.objective)
            said = row.get("error") or newest
            label = self._label(row)
            label = label if len(label) <= _LIVE else f"…{label[1 - _LIVE :]}"  # by their ends jobs differ
            table.add_row(Text(label), row["status"], done, f"{timedelta(seconds=round(seconds))}", Text(said))
        return table

    def end_table(self) -> Table:
        """The table at the end; nothing of it is cut off, and what tells the jobs apart is the last to be wrapped."""
        rows = self.rows
        labels = [self._label(row) for row in rows]
        table = Table(title=escape(str(self.folder)))
        table.add_column("run", overflow="fold", width=min(max(map(len, labels), default=0), _WIDE))
        table.add_column("status", overflow="fold")
        table.add_column("min", justify="right", no_wrap=True)
        table.add_column("numbers, or what went wrong", overflow="fold")
        for label, row in zip(labels, rows, strict=True):
            said = row.get("error") or self._numbers(row["run"])
            minutes = f"{row['seconds'] / 60:.1f}"
            table.add_row(label, row["status"], minutes, escape(said), end_section=len(said) > _WIDE)
        return table

    def show(self) -> None:
        """Print the table of the end, if there are jobs."""
        if self.rows:
            _Screen().print(self.end_table())

    def _label(self, row: Row) -> str:
        return row["run"].removeprefix(f"{self.name}/")

    def _numbers(self, run: str) -> str:
        found = record.current(record.read(self.runs / run / "records.jsonl"))
        found = sorted(found, key=lambda each: each.metric not in self.objective)
        said = ", ".join(f"{each.metric} {each.value:.4g}" for each in found[:_NUMBERS])
        return said or ", ".join(filter(None, standing(self.runs / run, self.objective)))


class _Screen(Console):
    """Where the table is shown. A reader that has gone, as `head` of a pipe, changes nothing of how the jobs ended."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


# What a run has done


def standing(run: Path, objective: Sequence[str] = ()) -> tuple[str, str]:
    """The stage of a run with its updates, of those that are planned, and its newest number; empty before the first."""
    rows = [row for row in _last(run / "metrics.jsonl") if "step" in row and "stage" in row]
    if not rows:
        return "", ""
    stage = rows[-1]["stage"]
    steps = max(row["step"] for row in rows if row["stage"] == stage)
    planned = _planned(run / "config.yaml").get(stage)
    done = f"{stage} {steps}" if planned is None else f"{stage} {steps}/{planned}"
    for names in (objective, ("loss",)):
        for row in reversed(rows):
            for name in names:
                if name in row:
                    return done, f"{name} {row[name]:.4g}"
    return done, ""


def _last(file: Path) -> list[Mapping[str, Any]]:
    """The last lines of a journal."""
    if not file.exists():
        return []
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - _TAIL))
        lines = opened.read().decode("utf-8", "replace").splitlines()
    found = []
    for line in lines:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [row for row in found if isinstance(row, dict)]


_PLANNED: dict[tuple[str, int], dict[str, int]] = {}


def _planned(file: Path) -> dict[str, int]:
    """The updates of each stage that does not end by a budget, as its run's config says."""
    if not file.exists():
        return {}
    key = str(file), file.stat().st_mtime_ns
    if key not in _PLANNED:
        config = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        stages = {stage: config.get(stage) or {} for stage in ("first", "second")}
        _PLANNED[key] = {
            stage: node["steps"]
            for stage, node in stages.items()
            if "steps" in node and not _limited(node.get("budget"))
        }
    return _PLANNED[key]


def _limited(budget: Mapping[str, Any] | None) -> bool:
    return any(value is not None for name, value in (budget or {}).items() if name != "_target_")
