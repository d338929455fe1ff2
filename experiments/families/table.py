"""The table, the plot and the grids of families of priors: python -m experiments.families.table FOLDER

FOLDER is budget/ or parameters/ of what run.sh has made, with a sweep of each family. The table is printed, the best distance
first; FOLDER gets pareto.svg, quality against the time of a sample, grids/FAMILY.png, ten samples of each class, a row a class,
of the first seed, and families.png, two of each class, a row a family, with held-out images below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from experiments.numbers import apart, cell, head, judged, line, numbers, runs_of
from ldm.build import build
from ldm.callback.image_grid import beside, image_grid
from ldm.data.module import DataModule
from ldm.model import LatentModel
from ldm.random import Random
from ldm.report.quantity import Better, quantity
from ldm.report.reading import Run
from ldm.report.statistic import summary
from ldm.run.load import settings_of

QUALITY, CLASSES, EACH = "fd_classifier", 10, 10
COLUMNS = {
    "FD": QUALITY,
    "FD / real": "fdr_classifier",
    "precision": "precision_classifier",
    "recall": "recall_classifier",
    "coverage": "coverage_classifier",
    "right label": "label_accuracy",
    "images/s": "samples_per_second",
    "steps": "sequential_steps",
    "training FLOPs": "training_flops_second",
    "parameters": "parameters_prior",
}

Families = dict[str, Sequence[Run]]


def families_in(folder: Path) -> Families:
    """The runs of each family that have a distance, the best family first."""
    found = {each.name: runs_of(each) for each in sorted(folder.iterdir()) if each.is_dir()}
    differ = apart(found.values(), QUALITY)
    if differ:
        sys.exit(f"{folder}: the distances are not comparable, they differ in {', '.join(differ)}; measure them alike")
    means = {name: mean(runs, QUALITY) for name, runs in found.items() if numbers(runs, QUALITY)}
    return {name: found[name] for name in sorted(means, key=lambda name: means[name])}


def mean(runs: Sequence[Run], metric: str) -> float:
    """Over seeds."""
    return summary([*numbers(runs, metric).values()]).mean


def table(families: Families) -> str:
    """A row a family; in bold the best of a column, where it is told from all others."""
    best = {metric: _best(families, metric) for metric in COLUMNS.values()}
    rows = []
    for name, runs in families.items():
        cells = []
        for metric in COLUMNS.values():
            text = cell(numbers(runs, metric), metric).replace("not run", "")
            cells.append(f"**{text}**" if best[metric] == name else text)
        rows.append(line(name, str(len(numbers(runs, QUALITY))), *cells))
    return "\n".join([head("prior", "seeds", *COLUMNS), *rows]) + "\n"


def _best(families: Families, metric: str) -> str:
    """The family that is told from all others; none where it is of costs that a clock has measured, or of no sign."""
    if quantity(metric).part == "Cost" or quantity(metric).better is Better.UNKNOWN:
        return ""
    return judged({name: numbers(runs, metric) for name, runs in families.items()}, metric)


def plot(families: Families, file: Path) -> None:
    """Distance against milliseconds of a sample, both on logarithmic axes; a line through those that no other beats in both."""
    points = {
        name: (1e3 / mean(runs, "samples_per_second"), mean(runs, QUALITY))
        for name, runs in families.items()
        if numbers(runs, "samples_per_second")
    }
    front = [
        point
        for point in sorted(points.values())
        if not any(other < point[1] for x, other in points.values() if x <= point[0])
    ]
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    axes.plot(*zip(*front, strict=True), color="#c8662b", linewidth=1, zorder=1)
    for name, (x, y) in points.items():
        axes.scatter(x, y, s=18, color="#c8662b" if (x, y) in front else "#6a7179", zorder=2)
        axes.annotate(name.replace("_", " "), (x, y), (4, 3), textcoords="offset points", fontsize=8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="milliseconds for a sample",
        ylabel="Fréchet distance, the set's own classifier",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    plt.close(figure)


@torch.no_grad()
def samples(run: Run, each: int) -> Tensor:
    """The first `each` samples of every class of the run's model, one class after the other."""
    rows = (torch.arange(CLASSES)[:, None] * EACH + torch.arange(each)).flatten()
    return LatentModel.load(run.path).sample({"label": rows // EACH, "index": rows}, Random(1, 0, rows))


def grid(run: Run, file: Path) -> None:
    """Ten samples of each class, a row a class."""
    file.parent.mkdir(exist_ok=True)
    image_grid(samples(run, EACH), columns=EACH, cell=32).picture.save(file, optimize=True)


def held_out(run: Run, each: int) -> Tensor:
    """The first `each` held-out images of every class."""
    data: DataModule = build(settings_of(run.path)["data"], "data")
    found = data.items("val", range(min(len(data.sources["val"]), 100 * CLASSES)))
    chosen = [torch.nonzero(found["label"] == k)[:each, 0] for k in range(CLASSES)]
    return found["image"][torch.cat(chosen)]


def picture(families: Families, file: Path, each: int = 2) -> None:
    """Samples of each class, a row a family, and held-out images."""
    rows = [(name, samples(runs[0], each)) for name, runs in families.items()]
    rows.append(("real images", held_out(next(iter(families.values()))[0], each)))
    beside(rows, columns=each * CLASSES, cell=32).picture.save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    families = families_in(folder)
    if not families:
        sys.exit(f"{folder}: no family here has a {QUALITY}; run experiments/families/run.sh first")
    print(table(families), end="")
    plot(families, folder / "pareto.svg")
    for name, runs in families.items():
        file = folder / "grids" / f"{name}.png"
        if not file.exists():
            grid(runs[0], file)
    picture(families, folder / "families.png")


if __name__ == "__main__":
    main()
