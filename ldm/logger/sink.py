"""Loggers that cannot end a run: third parties' behind one narrow door.

A curve on a web page is a convenience; whatever goes wrong with it (no login, no network, a full or read-only disk, its
service killed) becomes one warning and the run goes on. The record itself is `metrics.jsonl` and `records.jsonl`, which
need none of them.

Curves of a stage stand under its name, against the images that it was trained on; what was measured in the end stands under
`evaluation/`, so that runs can be ranked by it.
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
    """Where configuration, curves, pictures and numbers go besides the run directory."""

    @abstractmethod
    def open(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        """Begin or go on with the run `name`, whose directory is `folder`."""

    @abstractmethod
    def scalars(self, stage: str, images: int, values: dict[str, float]) -> None:
        """Named numbers of a stage after so many images."""

    @abstractmethod
    def picture(self, stage: str, images: int, name: str, picture: Picture.Image) -> None:
        """A picture of a stage after so many images."""

    @abstractmethod
    def conclude(self, records: Sequence[Record], report: Path) -> None:
        """What was measured of the finished run, and its report (HTML)."""

    @abstractmethod
    def close(self, code: int) -> None:
        """Flush; `code` is how the run ended or stopped (ldm.run.signals)."""


def ranked(records: Sequence[Record]) -> dict[str, float]:
    """What runs are ranked by: `evaluation/<metric>` and, where it is known, `evaluation/<metric> error`."""
    found = {}
    for each in records:
        found[f"evaluation/{each.metric}"] = each.value
        if each.standard_error is not None:
            found[f"evaluation/{each.metric} error"] = each.standard_error
    return found


def images_seen(records: Sequence[Record]) -> int:
    """Where measured numbers stand among the curves: the images that the second stage was trained on."""
    return max((each.images_seen or 0 for each in records), default=0)


def rows(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """All fields of records as a table: the names of those that any has, and a row a record."""
    flat = [record.flat() for record in records]
    order = {name: i for i, name in enumerate(each.name for each in dataclasses.fields(Record))}
    names = sorted({name for each in flat for name in each}, key=lambda name: (order[name.partition(".")[0]], name))
    return names, [[each.get(name) for name in names] for each in flat]


class Guarded(Sink):
    """A sink whose first failure is a warning and whose last act it is."""

    def __init__(self, sink: Sink):
        self.sink, self.alive = sink, True

    def _try(self, act: str, *arguments: Any) -> None:
        if not self.alive:
            return
        try:
            getattr(self.sink, act)(*arguments)
        except (Exception, SystemExit) as error:  # whatever a third party raises here must not cost a training
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
