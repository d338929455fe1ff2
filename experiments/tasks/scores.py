"""How scores of ordinary and strange images lie: python -m experiments.tasks.scores PICTURE.png FOLDER=SCORE,... ...

FOLDER is what `ldm apply task=anomaly task.others=DIR` has written, SCORE one of its scores, as `nll`. A panel each: histograms
of the images given and of the others, and the area under the curve.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_BINS = 40
_SHOWN = (0.5, 99.5)  # percentiles of all scores between which a panel reaches
_COLOURS = ("#3b6ea8", "#d9822b")


def scores(folder: Path, score: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Those of the images given, those of the others, and the area with its error in words; SystemExit where there are none."""
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    areas = found["found"].get("auroc", {})
    if score not in areas:
        raise SystemExit(f"{folder} has no area of {score}; there are {', '.join(areas) or 'none'}")
    values, area = np.array([row[score] for row in found["rows"]]), areas[score]
    given = found["images"]["n"]
    return values[:given], values[given:], f"{area['value']:.3f} ± {area['standard_error']:.3f}"


def main(picture: Path, asked: list[str]) -> None:
    panels = [
        (Path(folder), score)
        for folder, _, names in (each.rpartition("=") for each in asked)
        for score in names.split(",")
    ]
    figure = Figure(figsize=(2.6 * len(panels), 2.4), layout="constrained")
    for axes, (folder, score) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        given, others, area = scores(folder, score)
        bins = np.linspace(*np.percentile(np.concatenate([given, others]), _SHOWN), _BINS + 1)
        for values, name, colour in ((given, "given", _COLOURS[0]), (others, "strange", _COLOURS[1])):
            axes.hist(values.clip(bins[0], bins[-1]), bins, color=colour, alpha=0.65, label=name)
        axes.set(title=f"{folder.name}\n{score}: {area}", yticks=[])
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
        axes.spines[["left", "top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
