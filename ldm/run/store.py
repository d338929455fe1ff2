"""The store: artifacts named by the hash of everything that made them; made once, by one process, used by all.

First stages and latent caches live here. An artifact is a directory that appears whole (a rename) under its key; a
lock per key lets one process make it while others wait; the lock is the kernel's, so a dead maker's is free at once.
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

log = logging.getLogger(__name__)


def key_of(value: Any) -> str:
    """The name of what a plain value (dicts, lists, numbers, strings) describes: 20 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class Store:
    def __init__(self, root: Path):
        self.root = root

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Path | None:
        """The artifact, or None; it is there as a whole or not at all."""
        path = self.path(kind, key)
        return path if (path / "artifact.json").exists() else None

    @contextlib.contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the right to make an artifact; waits, and says for whom, while another process has it."""
        place = self.path(kind, f"{key}.lock")
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is making %s %s; waiting for it (%s)", kind, key, place)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

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
