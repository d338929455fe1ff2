"""Loggers of third parties behind one small interface, such that none of them can end a run.

Curves on a web page are a convenience. Whatever goes wrong with them (no login, no network, a full or read-only disk, a killed
service) becomes one warning, and the run continues. The authoritative records are `metrics.jsonl` and `records.jsonl`, which
need no logger.

The curves of a stage are logged under its name, over the number of images that it was trained on. What was measured at the
end is logged under `evaluation/`, so that runs can be ranked by it.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Picture

from ldm.run.record import Record

log = logging.getLogger(__name__)


class Sink(ABC):
    """A logger: a place, besides the run directory, for configuration, curves, pictures and numbers. A new one writes all
    methods."""

    @abstractmethod
    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        """Begin or resume the logging of the run `name`, whose directory is `folder`."""

    @abstractmethod
    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        """Log named numbers of a stage after it was trained on `images` images."""

    @abstractmethod
    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        """Log a picture of a stage after it was trained on `images` images."""

    @abstractmethod
    def conclude(self, records: Sequence[Record], report: Path) -> None:
        """Log what was measured for the finished run, and its report, an HTML file."""

    @abstractmethod
    def close(self, code: int) -> None:
        """Flush and end; `code` is the exit code of the run (ldm.run.signals)."""


def ranked(records: Sequence[Record]) -> dict[str, float]:
    """The numbers that runs are ranked by: `evaluation/<metric>` and, where there is a standard error,
    `evaluation/<metric> error`."""
    found = {}
    for each in records:
        found[f"evaluation/{each.metric}"] = each.value
        if each.standard_error is not None:
            found[f"evaluation/{each.metric} error"] = each.standard_error
    return found


def images_seen(records: Sequence[Record]) -> int:
    """The number of images that the second stage was trained on, at which measured numbers are logged."""
    return max((each.images_seen or 0 for each in records), default=0)


def rows(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """All fields of records as a table: the names of those that any has, and a row a record."""
    flat = [record.flat() for record in records]
    order = {name: i for i, name in enumerate(each.name for each in dataclasses.fields(Record))}
    names = sorted({name for each in flat for name in each}, key=lambda name: (order[name.partition(".")[0]], name))
    return names, [[each.get(name) for name in names] for each in flat]


class Guarded(Sink):
    """A sink that turns the first error of another sink into a warning, and does not use that sink any more then.

    Arguments:
        sink: the other sink.
    """

    def __init__(self, sink: Sink):
        self.sink, self.alive = sink, True

    def _try(self, act: str, *arguments: Any) -> None:
        if not self.alive:
            return
        try:
            getattr(self.sink, act)(*arguments)
        except (Exception, SystemExit) as error:  # no error of a third party may end a training
            self.alive = False
            log.warning("%s is out (%s: %s); the run goes on without it", type(self.sink).__name__, act, error)

    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        self._try("open", folder, name, config)

    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        self._try("scalars", stage, images, values)

    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        self._try("picture", stage, images, name, picture)

    def conclude(self, records: Sequence[Record], report: Path) -> None:
        self._try("conclude", records, report)

    def close(self, code: int) -> None:
        self._try("close", code)
