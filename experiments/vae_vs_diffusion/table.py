"""The comparison table of the textbooks, from the runs of run.sh: python -m experiments.vae_vs_diffusion.table RUNS

A row is a property and how it was measured; a column a model, with its mean over training seeds ± their deviation; the last one
says which model is the best where it is told from both others by the intervals of `ldm report` (docs/report.md), and which ones
cannot be told from it where not. What was not run says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.numbers import Numbers, apart, cell, head, judged, line, numbers, runs_of
from ldm.report.reading import Run
from ldm.report.statistic import Number, summary
from ldm.report.words import count

MODELS = {"vae": "VAE", "latent": "latent diffusion", "pixel": "pixel diffusion"}
QUALITY = "fd_classifier"
STEPS = (1, 2, 5)
DECODED, PIXELS = "the decoder alone", "the image itself"
OF_LATENTS = ("psnr", "reconstruction_fd_random_conv", "posterior_bits")  # which a model of pixels does not have
GIVEN = ("training_seconds", "training_flops", "parameters", "samples_per_second")  # whose errors nobody has measured

Runs = dict[str, Sequence[Run]]

ROWS = (
    ("Generation quality", "FD, classifier", QUALITY),
    ("", "FD / that of real images", "fdr_classifier"),
    ("", "KD, classifier", "kd_classifier"),
    ("", "precision", "precision_classifier"),
    ("Diversity", "recall", "recall_classifier"),
    ("", "coverage", "coverage_classifier"),
    ("Sampling speed", "images a second", "samples_per_second"),
    ("", "sequential steps", "sequential_steps"),
    ("", "FLOPs an image", "sample_flops"),
    ("Latent structure", "path length, untrained features", "path_length_feature_distance_random"),
    ("", "labels by a linear probe", "probe_linear"),
    ("", "labels by the nearest neighbour", "probe_nearest"),
    ("Likelihood", "bits/dim", "bits_per_dim"),
    ("Reconstruction", "PSNR, dB", "psnr"),
    ("", "FD of reconstructions, untrained features", "reconstruction_fd_random_conv"),
    ("Compression", "bits of a latent", "posterior_bits"),
    ("Training", "seconds", "training_seconds"),
    ("", "FLOPs", "training_flops"),
    ("", "parameters", "parameters"),
)


def every(root: Path, prefix: str = "") -> Runs:
    """The runs of each model in the sweeps of a prefix."""
    return {name: runs_of(root / f"{prefix}{name}") for name in MODELS}


def plain_rows(own: Runs, rows: Sequence[tuple[str, str, str]] = ROWS) -> list[str]:
    """A row for each metric of the main runs."""
    return [row(title, words, own, metric) for title, words, metric in rows]


def row(title: str, words: str, own: Runs, metric: str) -> str:
    """A row of one metric; without a verdict where its numbers are not of one kind, or say only how the study was made."""
    if metric in OF_LATENTS:
        own = {name: runs for name, runs in own.items() if name != "pixel"}
    columns = {MODELS[name]: numbers(runs, metric) for name, runs in own.items()}
    differ = apart(own.values(), metric)
    verdict = (
        f"not compared, another {' and '.join(differ)}"
        if differ
        else ""
        if metric in GIVEN
        else judged(columns, metric)
    )
    cells = [cell(each, metric) for each in columns.values()] + [PIXELS] * (len(MODELS) - len(own))
    if metric == "sequential_steps" and own["vae"] and not columns[MODELS["vae"]]:
        cells[0] = DECODED  # whose prior has no network
    return line(title, words, *cells, verdict)


def cost_rows(root: Path) -> list[str]:
    """Seconds and FLOPs of the cheaper of the two budgets that reaches the distance which all models reach in the greater one."""
    budgets = [every(root, "quarter-"), every(root)]
    means = [{name: mean(numbers(runs, QUALITY)) for name, runs in each.items()} for each in budgets]
    if any(value is None for value in means[1].values()):
        return []
    goal = max(means[1].values())
    found = []
    for title, metric in (("seconds", "training_seconds"), ("FLOPs", "training_flops")):
        cells, costs = [], {}
        for name in MODELS:
            first = next(i for i in (0, 1) if (value := means[i][name]) is not None and value <= goal)
            own = numbers(budgets[first][name], metric)
            costs[MODELS[name]] = own
            cells.append(count(mean(own) or 0.0))
        note = "" if all(means[0].values()) else "a quarter of the budget: not run"
        found.append(line("", f"{title} to FD {goal:.3g}, of two budgets", *cells, note))
    return found


def spread_rows(root: Path) -> list[str]:
    """How far the distance moves between seeds, and between learning rates of a third, of one and of three times the recipe's."""
    main, rates = every(root), every(root, "rates-")
    seeds, spans = [], []
    for name in MODELS:
        own = numbers(main[name], QUALITY)
        found = summary([*own.values()]) if own else None
        seeds.append(f"{found.deviation / found.mean:.1%}" if found and found.deviation is not None else "not run")
        each = [value.value for run in rates[name] for value in numbers([run], QUALITY).values()]
        known = [*each, *(own[run.settings["seed"]].value for run in rates[name][:1] if run.settings["seed"] in own)]
        spans.append(f"{min(known):.3g} to {max(known):.3g}" if len(each) > 1 else "not run")
    return [
        line("Stability", "deviation of FD between seeds", *seeds, ""),
        line("", "FD over learning rates ×0.3, ×1, ×3, one seed", *spans, ""),
    ]


def equal_rows(own: Runs) -> list[str]:
    """Images a second of the fewest steps whose mean distance is no greater than the VAE's."""
    goal = mean(numbers(own["vae"], QUALITY))
    if goal is None:
        return []
    rates, steps = [cell(numbers(own["vae"], "samples_per_second"), "samples_per_second")], [DECODED]
    for name in ("latent", "pixel"):
        ways = [*STEPS, None]
        fits = [way for way in ways if (value := mean(numbers(own[name], QUALITY, way))) is not None and value <= goal]
        if not fits:
            rates.append("not reached")
            steps.append("not reached")
            continue
        rates.append(cell(numbers(own[name], "samples_per_second", fits[0]), "samples_per_second"))
        steps.append(count(mean(numbers(own[name], "sequential_steps", fits[0])) or 0.0))
    return [
        line("", f"images a second at the VAE's FD ({goal:.3g}) or better", *rates, ""),
        line("", "sequential steps for that", *steps, ""),
    ]


def little_rows(root: Path) -> list[str]:
    """The distance of models that were trained on a hundredth and a tenth of the images."""
    found = []
    for share in (1, 10):
        title = "Little data" if share == 1 else ""
        found.append(
            row(title, f"FD of {share} % of the images, the same cost", every(root, f"little{share}-"), QUALITY)
        )
    return found


def mean(own: Numbers) -> float | None:
    """Over seeds."""
    values: list[Number] = [*own.values()]
    return summary(values).mean if values else None


def table(root: Path) -> str:
    """All of it, as Markdown."""
    main = every(root)
    modes = every(root, "shapes-")
    shapes = [
        row("Mode collapse", "modes of shapes, of those expected", modes, "modes_share"),
        row("", "samples of no mode of the data", modes, "modes_strange"),
    ]
    rows = plain_rows(main)
    cut = next(i for i, each in enumerate(ROWS) if each[0] == "Sampling speed")
    speed = next(i for i, each in enumerate(ROWS) if each[0] == "Latent structure")
    parts = [
        *rows[:cut],
        *shapes,
        *rows[cut:speed],
        *equal_rows(main),
        *rows[speed:],
        *cost_rows(root),
        *spread_rows(root),
    ]
    return _written([*parts, *little_rows(root)])


def cifar(root: Path) -> str:
    """The plain rows of the models of CIFAR-10; nothing where they were not trained."""
    own = every(root, "cifar-")
    return f"\nCIFAR-10\n\n{_written(plain_rows(own))}" if any(own.values()) else ""


def _written(rows: Sequence[str]) -> str:
    return "\n".join([head("Property", "Measured as", *MODELS.values(), "Best"), *rows]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    root = parser.parse_args().runs
    print(table(root) + cifar(root), end="")
