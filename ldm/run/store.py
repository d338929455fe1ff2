"""The store: artifacts that are made once and used by all runs, such as first stages and latent caches.

An artifact is a directory whose name, its key, is a hash of everything that it was made from. It appears under this name only
when it is complete, by a rename. One process at a time can hold the lock of a key and make the artifact, while others wait. The
kernel releases the lock when its process ends, however it ends. A run that looks up an artifact needs it from then on, and this
is recorded before the look-up (ldm.run.needs).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ldm.files import write_json
from ldm.ranks import agree, rank
from ldm.run.needs import Needs

log = logging.getLogger(__name__)


def key_of(value: Any) -> str:
    """A hash of a plain value (dicts, lists, numbers, strings); 20 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class Lock:
    """The lock of an artifact; while it waits, a message says for what.

    Arguments:
        place: the lock file.
    """

    def __init__(self, place: Path):
        self.place, self._lock, self._announced = place, FileLock(place), False

    def acquire(self, seconds: float) -> bool:
        """Try to take the lock for at most `seconds` seconds, the first time without waiting; whether it was taken."""
        try:
            self._lock.acquire(timeout=0 if not self._announced else seconds)
        except Timeout:
            if not self._announced:
                log.info("another process is making %s; waiting for it (%s)", self.place.stem, self.place)
            self._announced = True
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


class Store:
    """Artifacts by kind and key.

    Arguments:
        root: the folder of the store.
        needs: records what the run needs that uses the store; None for no record.
    """

    def __init__(self, root: Path, needs: Needs | None = None):
        self.root, self.needs = root, needs

    def path(self, kind: str, key: str) -> Path:
        """Where an artifact is, or would be."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Path | None:
        """The directory of an artifact, or None where it does not exist. This has to be called with the artifact's lock held,
        so that the artifact is not removed before it is used."""
        path = self.path(kind, key)
        if self.needs is not None:
            self.needs.add(self.root, f"{kind}/{key}")
        return path if (path / "artifact.json").exists() else None

    def description(self, artifact: Path) -> Any:
        """What an artifact was made from, as it was given to `publish`."""
        return json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))["made_from"]

    def lock(self, kind: str, key: str) -> Lock:
        """The lock that a process has to hold to make an artifact."""
        place = self.path(kind, f"{key}.lock")
        place.parent.mkdir(parents=True, exist_ok=True)
        return Lock(place)

    def workplace(self, kind: str, key: str) -> Path:
        """The directory in which an artifact is made. It remains after an interruption, so that the work can be continued."""
        path = self.path(kind, f"{key}.part")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, kind: str, key: str, description: Any) -> Path:
        """Rename the finished workplace to the artifact, and store what it was made from."""
        path, part = self.path(kind, key), self.workplace(kind, key)
        write_json(part / "artifact.json", {"kind": kind, "key": key, "made_from": description})
        os.replace(part, path)
        return path


@contextlib.contextmanager
def turn(lock: Lock) -> Iterator[None]:
    """Rank 0 holds `lock` for all ranks. While it waits they meet twice a minute, so that no collective times out."""
    while not agree(lambda: lock.acquire(30.0)):
        pass
    try:
        yield
    finally:
        if rank() == 0:
            lock.release()
