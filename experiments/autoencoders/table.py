"""The two-stage trade-off: python -m experiments.autoencoders.table RUNS

A row is a first stage that run.sh has made: how well it reconstructs, how many bits its latents have, and how far samples of
priors of it are from real images. In bold what is told to be the best of its column (docs/report.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.numbers import Numbers, cell, head, judged, line, numbers, runs_of
from ldm.report.reading import Run

STAGES = {
    "base": "4 channels, KL 1e-6",
    "faint": "KL 1e-4",
    "strong": "KL 1e-2",
    "narrow": "2 channels",
    "wide": "8 channels",
    "pyramid": "with a Laplacian pyramid",
    "vq": "512 codes",
}
OF_STAGE = {
    "PSNR, dB": ("psnr",),
    "FD of reconstructions": ("reconstruction_fd_classifier",),
    "bits": ("posterior_bits_whitened", "code_bits"),
    "FLOPs of training": ("training_flops_first",),
}
OF_PRIOR = {"FD, diffusion": "diffusion", "FD, PixelCNN": "pixelcnn", "FD, transformer": "transformer"}
QUALITY = "fd_classifier"


def first_of(runs: Sequence[Run], metrics: Sequence[str]) -> tuple[str, Numbers]:
    """The first of some metrics that the runs have, and its numbers."""
    found = [(metric, own) for metric in metrics if (own := numbers(runs, metric))]
    return found[0] if found else (metrics[0], {})


def columns(root: Path) -> dict[str, dict[str, tuple[str, Numbers]]]:
    """Of each column, of each first stage, the metric and its numbers."""
    # A first stage is measured with each of its priors; those of the PixelCNN, which all of them have, are taken.
    own = {stage: runs_of(root / "pixelcnn" / stage) for stage in STAGES}
    found = {title: {stage: first_of(own[stage], each) for stage in STAGES} for title, each in OF_STAGE.items()}
    for title, prior in OF_PRIOR.items():
        found[title] = {stage: (QUALITY, numbers(runs_of(root / prior / stage), QUALITY)) for stage in STAGES}
    return found


def table(root: Path) -> str:
    """All of it, as Markdown."""
    found = columns(root)
    best = {
        title: judged({stage: own for stage, (_, own) in each.items()}, next(iter(each.values()))[0])
        for title, each in found.items()
        if title not in ("bits", "FLOPs of training")
    }
    rows = []
    for stage, words in STAGES.items():
        cells = []
        for title, each in found.items():
            metric, own = each[stage]
            text = cell(own, metric) if own else ""
            cells.append(f"**{text}**" if best.get(title) == stage else text)
        if any(cells):
            seeds = max(len(own) for each in found.values() for _, own in [each[stage]])
            rows.append(line(words, str(seeds), *cells))
    return "\n".join([head("First stage", "seeds", *found), *rows]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    print(table(parser.parse_args().runs), end="")
