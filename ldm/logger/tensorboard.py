"""TensorBoard event files in the run directory; `tensorboard --logdir runs` shows them.

TensorBoard does not label its x axis. Here it is always the number of images that the stage was trained on, and the
description of every scalar says so. The table of hyperparameters (HPARAMS) has all settings of the config, as
`second.optimizer.lr`, and the numbers that runs are ranked by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image as Picture

from ldm.logger.sink import Sink, images_seen, ranked, rows
from ldm.run.record import Record


class TensorBoard(Sink):
    """TensorBoard event files in the run directory; `tensorboard --logdir runs` shows them."""

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.config = SummaryWriter(str(folder / "tensorboard")), config
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))  # Markdown's code

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._scalar(f"{stage}/{key}", value, images, f"x: images that the {stage} stage was trained on")

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        import numpy

        self.writer.add_image(f"{stage}/{name}", numpy.asarray(picture.convert("RGB")), images, dataformats="HWC")

    def conclude(self, records: Sequence[Record], report: Path) -> None:
        from torch.utils.tensorboard.summary import hparams

        images, numbers = images_seen(records), ranked(records)
        for summary in hparams(leaves(self.config), numbers):
            self.writer.file_writer.add_summary(summary)
        for name, value in numbers.items():
            self._scalar(name, value, images, "x: images that the second stage was trained on")
        self.writer.add_text("report", f"The run on one page: `{report}`\n\n{_markdown(*rows(records))}", images)

    def close(self, code: int) -> None:
        self.writer.close()

    def _scalar(self, tag: str, value: float, images: int, description: str) -> None:
        from torch.utils.tensorboard.summary import scalar

        summary = scalar(tag, value)
        summary.value[0].metadata.summary_description = description
        self.writer.file_writer.add_summary(summary, images)


def leaves(config: Any, key: str = "") -> dict[str, bool | int | float | str]:
    """The values of a nested config by their dotted names. Values that are neither numbers nor texts become texts."""
    if isinstance(config, dict):
        parts = [leaves(value, f"{key}.{name}" if key else name) for name, value in config.items()]
        return {name: value for part in parts for name, value in part.items()}
    return {key: config if isinstance(config, bool | int | float | str) else str(config)}


def _markdown(names: list[str], values: list[list[Any]]) -> str:
    lines = [names, ["---"] * len(names), *([("" if v is None else str(v)) for v in row] for row in values)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if values else ""
