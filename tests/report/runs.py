"""Run directories for the tests of the report: as training leaves them, with numbers that are given."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ldm.callback.image_grid import beside, save
from ldm.run.record import Record, write

CONFIG = {
    "data": {"_target_": "ldm.data.module.DataModule", "root": "/data", "batch_size": 4, "seed": 0},
    "prior": {"_target_": "ldm.prior.diffusion.Diffusion", "steps": 10},
    "second": {"steps": 100, "log_every": 10, "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001}},
    "trainer": {"accelerator": "cpu", "precision": "32-true"},
    "experiment": "custom",
    "name": "a",
    "seed": 0,
}


def config(seed: int = 0, **words: Any) -> dict[str, Any]:
    """A small config; words with `__` for a dot, as prior__steps=3."""
    found = json.loads(json.dumps(CONFIG))
    found["seed"] = found["data"]["seed"] = seed
    for word, value in words.items():
        *parts, last = word.split("__")
        node = found
        for part in parts:
            node = node[part]
        node[last] = value
    return found


def record(metric: str = "fd_x", value: float = 1.0, **fields: Any) -> Record:
    """A number of 100 images in features x, with what is given in the place of the rest."""
    base = Record(
        metric=metric,
        value=value,
        standard_error=0.01,
        n=100,
        features="x",
        features_hash="f",
        reference_hash="r",
        rounded=True,
        data="d",
        split="val",
        weights="averaged",
        drawn={"prior": "diffusion"},
        date="2026-01-01T00:00:00+00:00",
    )
    return replace(base, **fields)


def run(path: Path, *records: Record, seed: int = 0, facts: dict[str, Any] | None = None, **words: Any) -> Path:
    """A finished run of a seed with these records, which are given its seed, and words of its config."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(config(seed, **words)))  # which is YAML, too
    own = {"name": path.name, "status": "finished", "seed": seed, "command": f"python train.py name={path.name}"}
    (path / "run.json").write_text(json.dumps(own | {"device": "CPU"} | (facts or {})))
    if records:
        write(path / "records.jsonl", *(replace(each, seed=seed, run=path.name) for each in records))
    return path


def curves(path: Path, *values: float, name: str = "loss") -> None:
    """A journal of a run's second stage, a row of 10 updates, 40 images and 2 seconds for each value."""
    rows = [
        {"stage": "second", "step": 10 * i, "images": 40 * i, "seconds": 2.0 * i, name: value}
        for i, value in enumerate(values, 1)
    ]
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def pictures(path: Path, captions: list[str] | None = None) -> None:
    """A grid of generated images beside real ones."""
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    grid = beside([("generated", images), ("real", -images)], captions or [f"caption {i}" for i in range(4)])
    save(grid, path / "samples" / "second-0000100.png", "samples", "second", 100, 400)
