"""Bits per dimension of models of pixels beside the published ones: python -m experiments.likelihood.table RUNS

RUNS is the folder of one data set that run.sh has made, or any folder of runs whose `bits_per_dim` were measured: each run is one
of the model that its experiment names. Numbers are those of held-out images, means over seeds ± their deviation, of one seed ±
its sampling error in brackets. Two numbers are of the same images where the last column is the same. Published ones are of the
whole test set and of models of full size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.numbers import cell, head, line, newest, numbers, runs_of
from ldm.report.reading import Run
from ldm.report.words import count, short

METRIC = "bits_per_dim"
PUBLISHED = {
    "mnist_vae": ("VAE", ""),
    "mnist_pixels_spline": ("spline flow", ""),
    "mnist_pixels_realnvp": ("RealNVP", "1.06"),
    "mnist_pixels_glow": ("Glow", "1.05"),
    "mnist_pixels_tarflow": ("TarFlow", ""),
    "mnist_pixels_cnf": ("continuous flow", "0.99"),
    "mnist_pixels": ("diffusion", ""),
    "mnist_pixels_pixelcnn": ("PixelCNN", "0.81"),
}
"""Titles, and bits of MNIST: RealNVP and FFJORD's as in Grathwohl et al. 2018 (table 1, arXiv 1810.01367), Glow's there, too;
PixelCNN's as the project's plan has it."""


def found_in(root: Path) -> dict[str, list[Run]]:
    """The runs below a folder that have the number, by experiment; those of a run's own folder or of sweeps."""
    runs = [*runs_of(root), *(run for folder in sorted(root.iterdir()) if folder.is_dir() for run in runs_of(folder))]
    by: dict[str, list[Run]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        if numbers([run], METRIC):
            by.setdefault(str(run.settings.get("experiment")), []).append(run)
    return by


def row(experiment: str, runs: Sequence[Run]) -> str:
    """One model."""
    title, published = PUBLISHED.get(experiment, (experiment, ""))
    record = next(iter(newest(runs, METRIC).values()))
    budget = ", ".join((record.budget or {}).values())
    return line(
        title,
        cell(numbers(runs, METRIC), METRIC),
        record.kind or "",
        published if is_mnist(runs[0]) else "",
        f"{record.n:,}",
        str(len(numbers(runs, METRIC))),
        count(float(record.parameters or 0)),
        short(float(record.images_seen)) if record.images_seen else "",
        budget,
        (record.reference_hash or "")[:6],
    )


def is_mnist(run: Run) -> bool:
    """Whether it is of the set of which the published numbers are."""
    return run.settings.get("data.train.path") == "ylecun/mnist"


def table(root: Path) -> str:
    """All of it, as Markdown; the lowest first."""
    by = found_in(root)
    order = sorted(by, key=lambda name: min(each.value for each in numbers(by[name], METRIC).values()))
    titles = (
        "Model",
        "bits/dim",
        "Kind",
        "Published",
        "Images",
        "Seeds",
        "Parameters",
        "Images seen",
        "Budget",
        "Which images",
    )
    return "\n".join([head(*titles), *(row(name, by[name]) for name in order)]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    print(table(parser.parse_args().runs), end="")
