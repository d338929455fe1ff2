"""From the items of a source to training examples and batches.

Everything that is random about an example (which of its captions is taken, where it is cropped, whether it is mirrored) is a
function of (seed, epoch, index), so it does not matter which process makes the example or when.

An item that cannot be used is replaced by another: by the next usable one, or by one drawn at random. The replacement is a
function of the index alone. So batches keep their size, and all processes agree on what is in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ldm.data.batches import Position, micro_batch
from ldm.data.caption import clean
from ldm.data.image import BadImageError, Transform, to_float
from ldm.data.image_cache import ImageCache
from ldm.data.source import Item, Source, Stream
from ldm.data.tally import Tally, TooManyBadError
from ldm.random import seed_of

OnError = Literal["raise", "skip", "replace"]
NO_LABEL = -1  # the label that means "no condition"
_TRIES = 1000
_EMPTY_PASSES = 100  # after so many passes without a row, a reader of a stream is taken to have none


class Maker:
    """Makes an example of an item.

    Arguments:
        transform: from the stored image to pixels.
        seed: of everything that is random about examples.
        tally: counts the items that could be used and those that could not.
        pixels: decoded images that are kept in memory, if they are.
    """

    def __init__(self, transform: Transform, seed: int, tally: Tally, pixels: ImageCache | None = None):
        self.transform, self.seed, self.tally, self.pixels = transform, seed, tally, pixels

    def item(self, source: Source, index: int) -> Item:
        """The item number `index` of a source, with its image from memory where it is kept there."""
        if self.pixels is not None and index in self.pixels:
            return source.facts(index) | {"image": self.pixels[index]}
        return source[index]

    def example(self, item: Item, index: int, epoch: int) -> dict[str, Any]:
        """The example of an item, or BadImageError where it cannot be made.

        It has `caption`, `label`, `index`, and either `pixels`, uint8 (h, w, c), or for cached latents `mean` and `std`,
        (c, h, w), or `code` (h, w), and `feature` where features are cached, too. In epoch -1 nothing is random: the first
        caption is taken, the crop is at the centre, and the image is not mirrored.
        """
        draw = seed_of(self.seed, epoch, index, "item") if epoch >= 0 else 0
        mirror = self.transform.flip and bool(draw & 1)
        place = (draw >> 1) % 2**24 / 2**24 if epoch >= 0 else 0.5
        text, problem = clean(item["caption"], draw >> 25) if "caption" in item else ("", None)
        name = item.get("name", "")
        label = item.get("label")
        label = NO_LABEL if label is None else label
        if not isinstance(label, int | np.integer):
            raise BadImageError(f"its label is {label!r}; wanted a whole number", name or f"item {index}")
        example: dict[str, Any] = {"caption": text, "label": int(label), "index": index}
        if "mean" in item or "code" in item:
            suffix = "_mirrored" if mirror else ""
            example |= {key: item[key + suffix] for key in ("mean", "std", "code", "feature") if key in item}
        else:
            pixels = self.transform(item["image"], place, name or f"item {index}")
            if self.pixels is not None and index not in self.pixels:
                self.pixels[index] = pixels
            example["pixels"] = pixels[:, ::-1] if mirror else pixels
        self.tally.good(index, problem, name)
        return example


class Items(Dataset):
    """The examples of a source, by their `Position` in a run.

    Arguments:
        source: where items come from.
        maker: makes the examples.
        on_error: what to do at an item that cannot be used: `raise`, `skip` to the next usable one, or `replace` it by one
            that is drawn at random.
    """

    def __init__(self, source: Source, maker: Maker, on_error: OnError):
        self.source, self.maker, self.on_error = source, maker, on_error

    def __len__(self) -> int:
        return len(self.source)

    def _stand_ins(self, index: int) -> Iterator[int]:
        count = len(self.source)
        yield index
        for k in range(1, min(count, _TRIES)):
            yield (index + k if self.on_error == "skip" else seed_of(self.maker.seed, index, "stand-in", k)) % count

    def __getitem__(self, position: Position) -> dict[str, Any]:
        for index in self._stand_ins(position.index):
            try:
                example = self.maker.example(self.maker.item(self.source, index), index, position.epoch)
            except BadImageError as error:
                if self.on_error == "raise":
                    raise
                self.maker.tally.bad(index, error.name, error.reason)
            else:
                return example | {"row": position.row, "step": position.step}
        raise TooManyBadError(
            f"no usable item of the {self.maker.tally.split} set found in place of item {position.index}: "
            f"{self.maker.tally.counts()}"
        )


class StreamItems(IterableDataset):
    """Micro-batches of examples from a stream, for the updates start, ..., stop - 1 of one rank.

    Each worker of a rank reads a part of the stream of its own, and the workers give micro-batches in turn. The rows of
    micro-batch j are fixed: it is always made of the same rows of its reader, whether all of them can be used or not. So with
    the same numbers of ranks and workers a run is resumed exactly where it stopped; the rows before that are read again, but
    not decoded. With other numbers of ranks or workers the order is another one.

    Arguments:
        stream: the rows.
        maker: makes the examples.
        on_error: as for `Items`; rows that cannot be used are replaced by others of the same micro-batch.
        batch_size: size of the global batch.
        start, stop: the first update and the one behind the last.
        rank, world: number of this rank, and number of ranks.
        accumulate: micro-batches for each update.
    """

    def __init__(
        self,
        stream: Stream,
        maker: Maker,
        on_error: OnError,
        batch_size: int,
        start: int,
        stop: int,
        rank: int,
        world: int,
        accumulate: int,
    ):
        self.stream, self.maker, self.on_error = stream, maker, on_error
        self.batch_size, self.start, self.stop = batch_size, start, stop
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.micro = micro_batch(batch_size, world, accumulate)

    def __len__(self) -> int:
        return max(self.stop - self.start, 0) * self.accumulate

    def _rows(self, part: int, parts: int) -> Iterator[tuple[int, int, Item]]:
        """(epoch, number of the row, row) of one reader out of `parts`, pass after pass without end. A pass may have no row
        for a reader, where all of its files are empty."""
        number, empty = part, 0
        for epoch in itertools.count():
            first = number
            for item in self.stream.rows(part, parts, seed_of(self.maker.seed, "stream", epoch)):
                yield epoch, number, item
                number += parts
            empty = empty + 1 if number == first else 0
            if empty == _EMPTY_PASSES:
                raise ValueError(f"reader {part} of {parts} of the stream has no rows; use fewer ranks or data.workers")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first, last = self.start * self.accumulate, self.stop * self.accumulate
        lane = (first + own) % workers
        rows = self._rows(self.rank * workers + lane, self.world * workers)
        before = len(range(lane, first, workers)) * self.micro
        rows = itertools.islice(rows, before, None)
        spare: dict[str, Any] | None = None
        for number in range(first + own, last, workers):
            examples, spare = self._examples(rows, spare)
            step, part = divmod(number, self.accumulate)
            row = (self.rank * self.accumulate + part) * self.micro
            positions = [{"row": row + i, "step": step} for i in range(self.micro)]
            yield collate([e | p for e, p in zip(examples, positions, strict=True)], self.batch_size)

    def _examples(self, rows: Iterator, spare: dict[str, Any] | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The next micro-batch, in which rows that cannot be used are replaced by usable ones among the same rows, and a
        usable example for the case that the next micro-batch has none."""
        good: list[dict[str, Any]] = []
        taken = 0
        while taken < self.micro or not (good or spare):
            epoch, index, item = next(rows)
            taken += 1
            try:
                good.append(self.maker.example(item, index, epoch))
            except BadImageError as error:
                if self.on_error == "raise":
                    raise
                self.maker.tally.bad(index, error.name, error.reason)
        good = good or [spare]
        return [good[i % len(good)] for i in range(self.micro)], good[-1]


def collate(examples: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """The batch (see ldm.data.module) of some examples of a global batch of `total`."""
    batch: dict[str, Any] = {}
    if "pixels" in examples[0]:
        batch["image"] = to_float(torch.from_numpy(np.stack([e["pixels"] for e in examples])))
    if "mean" in examples[0]:
        batch |= {key: _stack(examples, key).to(torch.float32) for key in ("mean", "std")}
    # Codes are whole numbers, and features have many channels: both keep the type in which they are stored.
    batch |= {key: _stack(examples, key) for key in ("code", "feature") if key in examples[0]}
    batch["caption"] = [e["caption"] for e in examples]
    for key in ("label", "index", "row"):
        batch[key] = torch.tensor([e[key] for e in examples], dtype=torch.int64)
    return batch | {"step": examples[0]["step"], "total": total}


def _stack(examples: list[dict[str, Any]], key: str) -> Tensor:
    return torch.stack([torch.from_numpy(np.asarray(e[key])) for e in examples])
