"""The pictures of an evaluation, among those of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ldm.callback.image_grid import beside, save
from ldm.metric.metric import Metric


def save_pictures(metrics: Iterable[Metric], folder: Path, images: int, batch: int) -> None:
    """Save what metrics want to be looked at, as `second-NAME-STEP.png` with a JSON file each.

    Arguments:
        folder: of a run's pictures.
        images: how many the second stage was trained on.
        batch: of these in an update.
    """
    step = images // batch
    for metric in metrics:
        for picture in metric.pictures():
            grid = beside(list(picture.rows), list(picture.captions))
            path = folder / f"second-{picture.name}-{step:07d}.png"
            save(grid, path, kind="neighbours", stage="second", step=step, images=images, title=picture.title)
