"""Which items are in the k-th global batch: a function of (seed, k), without state.

Every epoch has a random permutation of the items. The permutations of all epochs, one after another, are one infinite
sequence of items, and batch k of size B has its entries kB, ..., (k + 1)B - 1. So every epoch shows every item once, a batch
may span two epochs, and in a data set smaller than a batch items repeat within it. A run that is resumed at batch k sees what
the uninterrupted run would have seen. Rank r of w computes the rows r B/w, ..., (r + 1) B/w - 1 of the global batch, in
`accumulate` micro-batches, so the numbers of ranks and of workers do not change what a batch holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ldm.random import seed_of


class Position(NamedTuple):
    """Where an item is used in a run.

    Fields:
        index: its number in the data set.
        epoch: the epoch; -1 outside of training.
        step: the update.
        row: its row in the global batch.
    """

    index: int
    epoch: int
    step: int
    row: int


class Batches(Sampler[list[Position]]):
    """The micro-batches of one rank for the updates start, ..., stop - 1. Each iteration begins again at `start`.

    Arguments:
        length: number of items in the data set.
        batch_size: size B of the global batch; a multiple of world * accumulate.
        seed: of the permutations.
        start, stop: the first update and the one behind the last.
        rank, world: number of this rank, and number of ranks.
        accumulate: micro-batches for each update.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        stop: int = 2**62,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ):
        if length < 1:
            raise ValueError("no items to make batches of: the data set is empty")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}: wanted 0 <= rank < world")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop, self.accumulate = start, max(stop, start), accumulate
        self.micro = micro_batch(batch_size, world, accumulate)
        self.first = rank * accumulate * self.micro
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
        return torch.randperm(self.length, generator=generator)

    def rows(self, step: int, first: int, count: int) -> list[Position]:
        """The rows first, ..., first + count - 1 of the global batch of update `step`."""
        positions: list[Position] = []
        while len(positions) < count:
            row = first + len(positions)
            epoch, at = divmod(step * self.batch_size + row, self.length)
            indices = self._permutation(epoch)[at : at + count - len(positions)].tolist()
            positions += [Position(index, epoch, step, row + i) for i, index in enumerate(indices)]
        return positions

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Position]]:
        for step in range(self.start, self.stop):
            for part in range(self.accumulate):
                yield self.rows(step, self.first + part * self.micro, self.micro)


def micro_batch(batch_size: int, world: int, accumulate: int) -> int:
    """The size of a micro-batch on one rank. Raises ValueError with the nearest possible batch sizes where `batch_size` is
    not a multiple of world * accumulate."""
    parts = world * accumulate
    if batch_size % parts == 0 and batch_size > 0:
        return batch_size // parts
    below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
    near = f"{below} or {above}" if below else str(above)
    raise ValueError(
        f"batch_size {batch_size} is the global batch and cannot be shared by {world} ranks x {accumulate} accumulated "
        f"micro-batches; take {near}"
    )


def spread(rows: Sequence[int], most: int) -> list[int]:
    """At most `most` of the rows, evenly spread over them."""
    count = min(len(rows), most)
    return [rows[i * len(rows) // count] for i in range(count)]
