"""The run directory: everything about one training. One process at a time may write to it.

    config.yaml      the config with all defaults and references resolved
    checkpoints/     the training state of each stage
    snapshots/       averages of the weights in the course of training, from which others are rebuilt
    model/           safetensors and config: everything that is needed to load the model
    samples/         grids of images with their captions
    metrics.jsonl    the curves
    records.jsonl    the measured numbers
    report.html      all of it on one page
    needs.json       what the run needs of the store
    log.txt          the log

With name= the directory has that name, and the same command resumes the run in it; without, the name is unique. The lock on
the directory is released by the kernel when its process ends, however it ends; `lock.json` says which process holds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ldm.files import named, remove_leftovers, write_json, write_text

log = logging.getLogger(__name__)


def asked_for(config: Mapping[str, Any]) -> str:
    """A hash of all that a command asked for, by which a run says what it finished. What a job returns to a sweep
    (`objective`) is read off a finished run and is not of it."""
    asked = {key: value for key, value in config.items() if key != "objective"}
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def facts_of(run: Path) -> dict[str, Any]:
    """What a run says of itself in `run.json`; {} where it does not."""
    file = run / "run.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def finished_as(run: Path) -> str | None:
    """What a run that says that it is finished was asked for (`asked_for`); None of one that was removed since, is trained on, or
    never came to its end."""
    facts = facts_of(run)
    return facts.get("asked", "") if facts.get("status") == "finished" else None


class RunTaken(RuntimeError):
    """Another process is writing to this run."""


class RunDirectory:
    """The paths of the files of a run; `claim` locks a directory for this process.

    Arguments:
        path: the directory.

    Attributes:
        checkpoints, model, samples, snapshots: the folders in it.
        metrics, records, report: the files in it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.model, self.samples = path / "checkpoints", path / "model", path / "samples"
        self.snapshots = path / "snapshots"
        self.metrics, self.records, self.report = path / "metrics.jsonl", path / "records.jsonl", path / "report.html"
        self._lock: FileLock | None = None

    @classmethod
    def claim(cls, root: Path, name: str | None, experiment: str) -> RunDirectory:
        """Make and lock the directory `root/name`. Without a name it gets a unique one from `experiment` and the time.

        Raises RunTaken where another process has locked it, and OSError where it cannot be written.
        """
        named = name is not None
        while True:
            chosen = name if named else f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            run = cls(root / chosen)
            try:
                run.path.mkdir(parents=True, exist_ok=named)
            except OSError as error:
                if isinstance(error, FileExistsError) and not named:
                    continue
                raise OSError(
                    f"{run.path}: no run directory can be made there ({error.strerror}); give another place with runs="
                ) from error
            run._acquire()
            return run

    def _acquire(self) -> None:
        lock, holder = FileLock(self.path / ".lock"), self.path / "lock.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text(encoding="utf-8").split() if holder.exists() else ["(unknown)"]
            raise RunTaken(
                f"{self.path} is being written by another process {' '.join(who)}; "
                "wait for it, stop it, or choose another name="
            ) from None
        self._lock = lock
        write_json(holder, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")})
        self.samples.mkdir(exist_ok=True)
        for folder in (self.path, self.model, self.samples, *self.snapshots.glob("*")):
            remove_leftovers(folder)

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            (self.path / "lock.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


class Journal:
    """The file `metrics.jsonl`, with a line {"stage", "step", "images", "seconds", "flops", name: value, ...} each time a stage
    logs; without "flops" where they are not known.

    A run that is resumed at step N first removes what was written after N, so the curves are those of an uninterrupted run.

    Arguments:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict]:
        """All complete lines."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [row for row in map(_parsed, lines) if row is not None]

    def images_seen(self, stage: str) -> int:
        """The number of images that a stage was trained on."""
        return max((row["images"] for row in self.rows() if row["stage"] == stage), default=0)

    def cost(self, stage: str) -> dict[str, int | float]:
        """What the training of a stage has cost so far: images, seconds and, where known, flops; {} where it has none."""
        last = max(
            (row for row in self.rows() if row["stage"] == stage),
            key=lambda row: (row["step"], row["seconds"]),
            default={},
        )
        return {name: last[name] for name in ("images", "seconds", "flops") if name in last}

    def rewind(self, stage: str, step: int) -> None:
        """Remove the lines of a stage after `step`, and incomplete lines."""
        kept = [row for row in self.rows() if row["stage"] != stage or row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(
        self,
        stage: str,
        step: int,
        images: int,
        seconds: float,
        values: dict[str, float],
        flops: int | None = None,
    ) -> None:
        """Add a line: named numbers of a stage at an update, after so many images, seconds and floating-point operations of
        training."""
        spent = {"seconds": round(seconds, 3)} | ({} if flops is None else {"flops": flops})
        row = {"stage": stage, "step": step, "images": images, **spent, **values}
        with named(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _parsed(line: str) -> dict | None:
    """A line of the journal; None for one that is incomplete because of a crash."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and {"stage", "step", "images", "seconds"} <= row.keys() else None
