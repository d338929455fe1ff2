"""What evaluations compute once of real images, kept in the store: features, and networks that were trained on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldm.metric.scene import Artifacts, InMemory, Tensors
from ldm.model import write_weights
from ldm.ranks import agree
from ldm.run.store import Store, turn
from ldm.tensors import read_tensors

log = logging.getLogger(__name__)

_FILE = "tensors.safetensors"


class Stored(Artifacts):
    """Artifacts of a store, each made by one process while others that want it wait.

    Arguments:
        store: where they are kept. Where it cannot be written (a run of somebody else's), they are kept in memory.
    """

    def __init__(self, store: Store):
        self.store, self._memory = store, InMemory()
        self._writable = agree(self._can_be_written)

    def kept(self, kind: str, key: str, made_from: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        if not self._writable:
            return self._memory.kept(kind, key, made_from, make)
        with turn(self.store.lock(kind, key)):
            found = agree(lambda: self.store.find(kind, key))
            if found is not None:
                return read_tensors(found / _FILE)
            made = make()
            agree(lambda: self._publish(kind, key, made_from, made))
        return made

    def _publish(self, kind: str, key: str, made_from: Mapping[str, Any], made: Tensors) -> Path:
        write_weights(made, self.store.workplace(kind, key) / _FILE)
        return self.store.publish(kind, key, dict(made_from))

    def _can_be_written(self) -> bool:
        root = self.store.root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("%s", error)
        if os.access(root, os.W_OK):
            return True
        log.warning(
            "what this evaluation computes of real images is not kept: %s cannot be written; give store=DIR", root
        )
        return False
