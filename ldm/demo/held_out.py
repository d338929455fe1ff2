"""Pictures that a visitor may take: held-out images of the run's data, or those of a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import PIL.Image

from ldm.build import build
from ldm.data.inputs import Inputs
from ldm.data.module import DataModule
from ldm.resolve import PACKAGES, check_named
from ldm.run.load import settings_of
from ldm.task.tools.done import pictures

log = logging.getLogger(__name__)

_SHOWN = 8


def examples(run: str, images: str | None, image_shape: tuple[int, int, int]) -> list[PIL.Image.Image]:
    """The first few of `images`, a file or a folder; without it of the run's held-out set, and none where that is not at hand."""
    if images is not None:
        inputs = Inputs(images, image_shape)
        return pictures(inputs.batch(range(min(len(inputs), _SHOWN))))
    try:
        return _held_out(run)
    except (OSError, ValueError) as error:
        log.info("no held-out images are offered (%s); images=DIR offers others", error)
        return []


def _held_out(run: str) -> list[PIL.Image.Image]:
    config: dict[str, Any] = settings_of(run)
    if "data" not in config:
        raise FileNotFoundError(f"{Path(run)} has no config.yaml that names its data")
    check_named({"data": config["data"]}, run, PACKAGES)
    data: DataModule = build(config["data"], "data", PACKAGES)
    if data.sources["val"].stream is not None:
        raise ValueError("its data are streamed")
    return pictures(data.items("val", range(min(len(data.sources["val"]), _SHOWN)))["image"])
