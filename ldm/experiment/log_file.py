"""`log.txt` of a run: what is said from the first word on, though the run's directory is there only later."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

_MANY = 10_000  # lines that are kept until there is a directory


class _File(logging.FileHandler):
    """Stays open after its run, for what is said of how it ended; the next run of the process closes it."""


class LogFile:
    """The file that logging writes to, once it is known; what was said while it was `awaited` is written to it first."""

    def __init__(self) -> None:
        self._early = MemoryHandler(_MANY, flushLevel=logging.CRITICAL + 1)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Keep what is said meanwhile."""
        root = logging.getLogger()
        root.addHandler(self._early)
        try:
            yield
        finally:
            root.removeHandler(self._early)

    def open(self, path: Path) -> None:
        """Write what was kept, and all that is said from now on, to a file."""
        root = logging.getLogger()
        for old in [each for each in root.handlers if isinstance(each, _File)]:
            root.removeHandler(old)
            old.close()
        file = _File(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)
        self._early.setTarget(file)
        self._early.close()
