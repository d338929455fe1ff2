"""The store: artifacts named by the hash of everything that made them; made once, by one process, used by all.

First stages and latent caches live here. An artifact is a directory that appears whole (a rename) under its key; a
lock per key lets one process make it while others wait; the lock is the kernel's, so a dead maker's is free at once.
What a run looks up it needs from then on, and says so before it looks (ldm.run.needs).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ldm.files import write_json
from ldm.run.needs import Needs

log = logging.getLogger(__name__)


def key_of(value: Any) -> str:
    """The name of what a plain value (dicts, lists, numbers, strings) describes: 20 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class Lock:
    """A lock file that says for whom one waits."""

    def __init__(self, place: Path):
        self.place, self._lock, self._told = place, FileLock(place), False

    def acquire(self, seconds: float) -> bool:
        """Whether it was to be had within so many seconds."""
        try:
            self._lock.acquire(timeout=0 if not self._told else seconds)
        except Timeout:
            if not self._told:
                log.info("another process is making %s; waiting for it (%s)", self.place.stem, self.place)
            self._told = True
            return False
        return True

    def release(self) -> None:
        self._lock.release()


class Store:
    """
    Arguments:
        needs: of the run that looks things up here; None where nobody is to be told.
    """

    def __init__(self, root: Path, needs: Needs | None = None):
        self.root, self.needs = root, needs

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Path | None:
        """The artifact, or None; it is there as a whole or not at all. To be asked under the artifact's lock, so that it is
        not removed on the way from the question to the use."""
        path = self.path(kind, key)
        if self.needs is not None:
            self.needs.add(self.root, f"{kind}/{key}")
        return path if (path / "artifact.json").exists() else None

    def description(self, artifact: Path) -> Any:
        """What an artifact was made from, as it was published."""
        return json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))["made_from"]

    def lock(self, kind: str, key: str) -> Lock:
        """The right to make an artifact."""
        place = self.path(kind, f"{key}.lock")
        place.parent.mkdir(parents=True, exist_ok=True)
        return Lock(place)

    def workplace(self, kind: str, key: str) -> Path:
        """Where an artifact is made; survives an interruption, so that making it can go on."""
        path = self.path(kind, f"{key}.part")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, kind: str, key: str, description: Any) -> Path:
        """Give the finished workplace its name."""
        path, part = self.path(kind, key), self.workplace(kind, key)
        write_json(part / "artifact.json", {"kind": kind, "key": key, "made_from": description})
        os.replace(part, path)
        return path
