"""The rows of an `IterableDataset` of the library `datasets`: its files in random order, and rows shuffled in a buffer.

Files are shared out among all workers of all ranks; where there are fewer files than workers, rows are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from datasets import IterableDataset

from ldm.data.source import Item, Stream
from ldm.random import seed_of

BATCH = 32  # rows that are read at a time

Cells = Mapping[str, Any]


class TableStream(Stream):
    """The stream of a table's rows.

    Arguments:
        data: the rows.
        item: makes an item, given a row and what to call it in messages.
        name: what to call the data set in messages.
        buffer: number of rows that are shuffled with each other.
    """

    def __init__(self, data: IterableDataset, item: Callable[[Cells, str], Item], name: str, buffer: int):
        self.data, self.item, self.name, self.buffer = data, item, name, buffer

    def rows(self, part: int, parts: int, seed: int) -> Iterator[Item]:
        files = self.data.num_shards
        order = random.Random(seed).sample(range(files), files)
        shared = files < parts
        rows = islice(self._read(order), part, None, parts) if shared else self._read(order[part::parts])
        for number, row in enumerate(_mixed(rows, self.buffer, random.Random(seed_of(seed, part)))):
            yield self.item(row, f"{self.name} reader {part} of {parts}, row {number}")

    def _read(self, files: list[int]) -> Iterator[Cells]:
        for file in files:
            # In batches, because iterating over rows would share the files out among data workers a second time.
            batches = self.data.shard(self.data.num_shards, file).iter(BATCH)
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:  # for damaged files readers raise errors of any type
                    raise ValueError(
                        f"{self.name}: file {file + 1} of {self.data.num_shards} cannot be read on: {error}"
                    ) from error
                if batch is None:
                    break
                yield from unpacked(batch)


def unpacked(batch: Mapping[str, list[Any]]) -> Iterator[Cells]:
    """The rows of a batch, which is a mapping from columns to lists."""
    for cells in zip(*batch.values(), strict=True):
        yield dict(zip(batch, cells, strict=True))


def _mixed(rows: Iterator[Any], size: int, draw: random.Random) -> Iterator[Any]:
    """The rows shuffled: each waits in a buffer of `size` rows until it is drawn."""
    buffer: list[Any] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        at = draw.randrange(size)
        yield buffer[at]
        buffer[at] = row
    draw.shuffle(buffer)
    yield from buffer
