"""How a sweep ends, whichever launcher ran its jobs: with a table of how each went and the report of its runs against each other.

Hydra has a callback for the end of a sweep, but it is not called where a job has failed or the sweep was stopped. So the callback
only notes where the sweep is, and what follows is done when the process that began the sweep leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ldm.command.board import Board
from ldm.command.grammar import at_home

log = logging.getLogger(__name__)


class Sweep(Callback):
    """The sweep of this process.

    Attributes:
        board: its jobs; None before it has begun.
        ended: whether its launcher came to the end without an error.
    """

    board: ClassVar[Board | None] = None
    ended: ClassVar[bool] = False
    _before: ClassVar[dict[Path, int]] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        shared = OmegaConf.masked_copy(config, ["runs", "name", "objective"])
        asked = at_home(OmegaConf.to_container(shared, resolve=True))
        objective = asked["objective"] or []
        names = [objective] if isinstance(objective, str) else list(objective)
        Sweep.board, Sweep.ended = Board(Path(asked["runs"]), asked["name"], names), False
        Sweep._before = _told(Sweep.board.folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.ended = True

    @classmethod
    def of_others(cls) -> None:
        """Put the runs that another launcher has made on the board."""
        from ldm.run.directory import facts_of

        now = _told(cls.board.folder)
        if not (cls.ended or now != cls._before):
            return
        for file in now:
            facts = facts_of(file.parent)
            row = {"run": str(file.parent.relative_to(cls.board.runs)), "status": str(facts.get("status"))}
            row["seconds"] = (facts.get("seconds") or {}).get("total", 0.0)
            cls.board.end(row | ({"error": facts["error"]} if facts.get("error") else {}))


def _told(folder: Path) -> dict[Path, int]:
    """The `run.json` of each run in a sweep's folder, and when it was written."""
    return {file: file.stat().st_mtime_ns for file in sorted(folder.glob("*/run.json"))}


@contextmanager
def concluded() -> Iterator[None]:
    """After this block show how the jobs of the sweep in it went, and write its report; however the block ends."""
    Sweep.board = None
    try:
        yield
    finally:
        if Sweep.board is not None:
            if not Sweep.board.rows:
                Sweep.of_others()
            if Sweep.board.rows:
                Sweep.board.show()
                compare(Sweep.board.folder)


def compare(folder: Path) -> None:
    """Write the report of a sweep's runs, if there are any. However that goes, the jobs have ended as they have."""
    from ldm.command.terminal import speak
    from ldm.report.collection import collect
    from ldm.report.several import several
    from ldm.report.written import write

    speak()
    try:
        found = collect([str(folder)])
        if found.runs:
            log.info("the runs against each other: %s", write(several(found), folder / "report"))
    except OSError as error:
        log.warning("no report of the sweep could be written (%s); ldm report %s writes it", error, folder)
