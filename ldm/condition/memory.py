"""Caches of what was computed for a caption, since captions come again every epoch.

`Memory` keeps the most recently used results in this process. `Disk` keeps all of them for other runs, in an SQLite file. Its
transactions allow several processes to write, and leave the file intact whenever a process dies.
"""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """The results of the `size` captions used last."""

    def __init__(self, size: int):
        self.size = size
        self._kept: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, captions: Sequence[str], compute: Callable[[list[str]], Iterable[T]]) -> list[T]:
        """The result for each caption. `compute` is called at most once, with the captions that are not kept, each of them
        once."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._kept]
        if missing:
            self._kept.update(zip(missing, list(compute(missing)), strict=True))  # all of them or none
        found = []
        for caption in captions:
            self._kept.move_to_end(caption)
            found.append(self._kept[caption])
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget all results."""
        self._kept.clear()


class Disk:
    """Bytes by caption in `$LDM_CACHE/captions/<key>.sqlite`, or under ~/.cache/ldm without that variable.

    The folder is the user's and not an argument, so that a config from elsewhere cannot choose where to write.
    """

    def __init__(self, key: str):
        root = os.environ.get("LDM_CACHE") or Path.home() / ".cache" / "ldm"
        self.path = Path(root) / "captions" / f"{key}.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (caption TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def read(self, captions: Iterable[str]) -> dict[str, bytes]:
        """The values that are there, by caption."""
        found = {}
        with closing(self._open()) as connection:
            for caption in captions:
                row = connection.execute("SELECT value FROM kept WHERE caption = ?", (caption,)).fetchone()
                if row is not None:
                    found[caption] = row[0]
        return found

    def write(self, values: Mapping[str, bytes]) -> None:
        """Add values by caption; those that are there already stay as they are."""
        with closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", values.items())

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)
