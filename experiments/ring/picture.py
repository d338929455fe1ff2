"""Samples of the priors that experiments/ring/study.py has trained, side by side, beside draws of the ring.

python -m experiments.ring.picture OUT PICTURE.png         OUT: of the study
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.ring.study import SAMPLES, recipes
from ldm.tensors import read_tensors
from tests.prior import ring

COLUMNS, LIMIT = 5, 2.4


def titled(row: dict) -> str:
    """A word and what it has come to."""
    nats = "" if row["nats"] is None else f"  {row['nats']:.3f} nats"
    return f"{row['word']}{nats}\n{row['away']:.1f} errors away"


def panels(out: Path) -> list[tuple[str, Tensor]]:
    """Titles and samples (n, 2): of the law itself and of each word that is there, in the order of recipes.yaml."""
    found = [("the ring", ring.draw(SAMPLES, torch.Generator().manual_seed(1)).flatten(1))]
    for word, recipe in recipes().items():
        for name in [f"{word} {steps}" for steps in recipe.steps] or [word]:
            if (out / f"{name}.json").exists():
                row = json.loads((out / f"{name}.json").read_text("utf-8"))
                found.append((titled(row), read_tensors(out / f"{name}.safetensors")["z"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    shown = panels(arguments.out)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(1.5 * COLUMNS, 1.75 * rows), layout="constrained")
    for axes, (title, z) in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, shown, strict=False):
        axes.scatter(z[:, 0], z[:, 1], s=0.5, color="black", linewidths=0)
        axes.set_title(title, fontsize=7)
    for axes in figure.axes:
        axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
        axes.set_axis_off() if not axes.collections else None
    figure.savefig(arguments.picture, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
