"""How long training waits for data: the share that says whether workers keep up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader


class Waiting:
    """A data loader that tells `tell` the seconds each batch was waited for, the first one (workers starting) left out."""

    def __init__(self, loader: DataLoader, tell: Callable[[float], None]):
        self.loader, self.tell = loader, tell

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        first = True
        while True:
            start = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if not first:
                self.tell(time.monotonic() - start)
            first = False
            yield batch
