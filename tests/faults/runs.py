"""Tiny runs to hurt, and what two of them have to have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.run import record
from ldm.run.checkpoint import Checkpoints
from tests.runs import compose, equal, rows, shrunk, tiny

STAGES = {
    # A reconstruction, a critic and the averages; no second stage.
    "first": ["prior=normal", "loss=kl_gan"],
    # A diffusion of pixels with its text; no first stage.
    "second": ["autoencoder=identity"],
    "both": [],
}


@dataclass
class Case:
    """A row of the table: how often something was done to how many, and how often all was well."""

    name: str
    cases: int = 0
    passed: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def count(self, well: bool, what: str = "", cases: int = 1) -> None:
        self.cases += cases
        self.passed += cases * well
        if not well:
            self.wrong.append(what)


def timed(name: str, work: Callable[[Case], None]) -> Case:
    case, start = Case(name), time.monotonic()
    work(case)
    case.seconds = time.monotonic() - start
    return case


def config(
    folder: Path, stage: str, *words: str, steps: int = 20, workers: int = 0, images: bool = False, **top: Any
) -> dict[str, Any]:
    """A run called `run` of so many updates in `folder`, with checkpoints every few and everything logged; of rendered
    shapes, or of the `images` that the words name."""
    if images:
        parts = ("trainer=cpu", "logger=none", "metric=offline", "backbone=unet_small", *STAGES[stage])
        chosen = shrunk(compose(*parts, *words), folder)
    else:
        chosen = tiny(folder, *STAGES[stage], *words, steps=steps)
    chosen["data"]["workers"] = workers
    for name in ("first", "second"):
        if chosen.get(name):
            chosen[name] |= {"steps": steps, "save_every": 5, "validate_every": 10, "picture_every": 10}
    return chosen | top


def result(folder: Path) -> dict[str, Any]:
    """All that a run left, clocks and places left out: training states, weights, curves, samples, numbers."""
    run = folder / "runs" / "run"
    states = {}
    for stage in sorted(run.glob("checkpoints/*")):
        step, state = Checkpoints(stage).load()
        states[stage.name] = [step, {key: value for key, value in state.items() if key != "seconds"}]
    files = sorted([*run.glob("model/*"), *run.glob("samples/*.png")])
    measured = [(each.metric, each.value, each.standard_error, each.n) for each in record.read(run / "records.jsonl")]
    return {
        "states": states,
        "files": {file.name: file.read_bytes() for file in files},
        "rows": rows(run),
        "measured": measured,
    }


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Where two results are not the same to the bit; empty where they are."""
    return ", ".join(key for key in wanted if not equal(found.get(key), wanted[key]))


def traced(file: Path) -> list[list[Any]]:
    """The micro-batches of a trace, in order: [update, rows, items]."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
