"""The files below a folder: links are followed, and files that operating systems leave there are skipped.

A link to a folder above it is not followed, because this would never end; every other link is, also where two lead to the same
folder. Names that begin with a dot (`.ipynb_checkpoints`, `._0.png`) and names that operating systems and archives create
(`__MACOSX`, `Thumbs.db`) are skipped. What is left out is recorded with the reason, for a message.
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
    """The files below a folder.

    Arguments:
        root: the folder.

    Attributes:
        files: all files that are not left out, in the order of their paths.
        left_out: the paths below the root that are left out, by the reason.

    Raises:
        PermissionError: a folder cannot be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self.files: list[Path] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self._enter(root, frozenset())

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
        """Record that a path is left out."""
        self.left_out[reason].append(os.path.relpath(path, self.root))

    def summary(self) -> str:
        """What is left out, in one line; "" where nothing is."""
        return "; ".join(f"{len(paths)} {reason} (as {paths[0]})" for reason, paths in self.left_out.items())


def natural(name: str) -> tuple[list[str | int], str]:
    """A key for sorting names in their natural order, in which 2 comes before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))], name
