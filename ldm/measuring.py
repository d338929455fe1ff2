"""Measuring a finished run again, with other samples, guidance, steps or weights: more records, a new report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ldm.build import build
from ldm.data.module import DataModule
from ldm.main import device_of
from ldm.model import Weights
from ldm.run import record, report
from ldm.run.directory import Journal, RunDirectory
from ldm.run.evaluation import Evaluation
from ldm.run.finished import Changes, named
from ldm.run.record import Record

log = logging.getLogger(__name__)


def measure_again(
    run: str,
    samples: int | None,
    guidance: float | int | None,
    steps: int | None,
    seed: int,
    weights: Weights,
    ema: float | None,
    device: str,
    diffusion: dict[str, Any] | None = None,
    guide: str | None = None,
    guide_ema: float | None = None,
) -> None:
    """Add records of a finished run, measured with other settings, and write its report anew."""
    place = RunDirectory(Path(run))
    file = place.path / "config.yaml"
    if not file.exists():
        raise FileNotFoundError(f"{run} has no config.yaml: give a run's directory")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    changes = Changes(diffusion, guidance, steps, guide, guide_ema)
    model = changes.load(run, weights, ema, device_of(device))
    evaluation: Evaluation = build(config["evaluation"] | {"seed": seed}, "evaluation")
    if samples is not None:
        evaluation = dataclasses.replace(evaluation, samples=samples)
    data: DataModule = build(config["data"], "data")
    images_seen = Journal(place.metrics).images_seen("second")
    facts = {
        **{
            "run": place.path.name,
            "experiment": config["experiment"],
            "data": data.fingerprint,
            "seed": config["seed"],
        },
        **{"weights": named(weights, ema), "images_seen": images_seen, "guide": changes.guide_named(run)},
    }
    metrics = build(config["metric"] or {}, "metric")
    records = evaluation(model, data, list(metrics.values()), facts, generate=bool(config.get("second")))
    record.write(place.records, *records)
    report.write(place.path)
    say(records)


def say(records: Sequence[Record]) -> None:
    """The newest number of each metric, a line each; of whatever sample size, which stands beside it."""
    newest = {each.metric: each for each in records}
    for each in newest.values():
        error = "" if each.standard_error is None else f" ± {each.standard_error:.2g}"
        log.info("%-28s %10.4g%s  (n = %s)", each.metric, each.value, error, each.n)
