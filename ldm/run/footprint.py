"""What a run is going to take on disk, and whether there is room: known from shapes before anything is trained.

A place is filled by parts, each with the bytes that will lie there in the end; a checkpoint beside the two that stay is
there for a moment besides (ldm.run.checkpoint).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ldm.files import in_units


@dataclass(frozen=True)
class Footprint:
    """What a run will take on the disk.

    Fields:
        run, store: bytes by the name of a part, in the run's directory and in the store.
        passing: bytes that are there for a moment besides, in the run's directory.
    """

    run: dict[str, int]
    store: dict[str, int]
    passing: int = 0

    def said(self, keep: str) -> str:
        """In a line of the log."""
        parts = self.run | {f"{name} (in the store)": count for name, count in self.store.items()}
        listed = ", ".join(f"{name} {in_units(count)}" for name, count in parts.items() if count)
        total = sum(parts.values())
        dropped = self.run.get("checkpoints", 0) + self.run.get("snapshots", 0)
        later = f"; {in_units(total - dropped)} when it has finished, by keep=model" if keep == "model" else ""
        return f"on disk this run takes {in_units(total)}: {listed}{later}"

    def check_room(self, run: Path, store: Path) -> None:
        """OSError where a disk has no room for what is not there yet.

        Arguments:
            run: its directory, with what an earlier call left of the same parts.
        """
        wanted = max(0, sum(self.run.values()) + self.passing - sum(size_below(run / name) for name in self.run))
        shared = sum(self.store.values())
        places = [(run, wanted, "runs"), (store, shared, "store")]
        if os.stat(_there(run)).st_dev == os.stat(_there(store)).st_dev:
            places = [(run, wanted + shared, "runs")]
        for place, count, word in places:
            free = shutil.disk_usage(_there(place)).free
            if free < count:
                raise OSError(
                    f"{place}: {in_units(free)} are free and this run is going to write {in_units(count)}; make room, "
                    f"put it elsewhere with {word}=, or take less: second.snapshots=0 keeps no snapshots of averages"
                )


def size_below(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
