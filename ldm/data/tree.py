"""The files below a folder as people have them: links are followed, what the system left there is not looked at.

A link to a folder that it lies in would never end; every other link is followed, also where two lead to one folder. Names
that begin with a point (`.ipynb_checkpoints`, `._0.png`) and those that systems and archives leave (`__MACOSX`, `Thumbs.db`)
hold no data. What is left out is kept by its reason, to be told.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

_LEFT_BEHIND = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
)
_NUMBER = re.compile(r"(\d+)")


class Tree:
    """
    Attributes:
        files: all that are not left out, in the order of their paths.
        left_out: reason -> paths below the root.
    Raises:
        PermissionError: a folder that cannot be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self.files: list[Path] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self._enter(root, frozenset())
        self.files.sort()

    def _enter(self, folder: Path, above: frozenset[tuple[int, int]]) -> None:
        status = folder.stat()
        here = status.st_dev, status.st_ino
        if here in above:
            self.leave_out("links back to a folder above them", folder)
            return
        for name in sorted(os.listdir(folder)):
            path = folder / name
            if name.startswith(".") or name.casefold() in _LEFT_BEHIND:
                self.leave_out("names that begin with a point or are the system's", path)
            elif os.path.isdir(path):
                self._enter(path, above | {here})
            elif os.path.isfile(path):
                self.files.append(path)
            else:
                self.leave_out("links that lead nowhere", path)

    def leave_out(self, reason: str, path: Path) -> None:
        self.left_out[reason].append(os.path.relpath(path, self.root))

    def told(self) -> str:
        """What is left out, in one line; '' where that is nothing."""
        return "; ".join(f"{len(paths)} {reason} (as {paths[0]})" for reason, paths in self.left_out.items())


def natural(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by, in which '2' comes before '10'."""
    return [int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))], name
