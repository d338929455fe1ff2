"""The data of a run: a source to train on and a source for validation, one policy for pixels and captions, and batches.

A training batch is a function of (seed, update), so `loader(start, stop, ...)` can begin at any update; under a trainer it
begins where the stage stands (ldm.stage.feed). Validation reads every row once, in order.

A batch is a dict with these entries:

    image             (b, c, h, w) in [-1, 1]; or, where latents are cached,
    mean, std         (b, c, h, w), the raw posterior of the latents; or of a vector quantiser
    code              (b, h, w), its codes; and in training perhaps
    feature           (b, d, h, w), the features of a frozen network for alignment
    caption           a list of b texts; "" means no condition
    label             (b,) int64; -1 means no label
    index, row        (b,) int64: the row in the data set, and the row in the global batch
    step, total       two ints: the update, and the size of the global batch

In validation `step` is 0, `row` equals `index`, and `total` is the size of the data set, so that random numbers that depend on
them are the same each time and for every number of processes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader

from ldm.data import worker
from ldm.data.batches import Batches, Position, spread
from ldm.data.caption import clean
from ldm.data.image import MAX_BYTES, MAX_PIXELS, Transform
from ldm.data.image_cache import ImageCache
from ldm.data.items import Items, Maker, OnError, StreamItems, collate
from ldm.data.latent import BadLatentsError, LatentSource
from ldm.data.overlap import overlap
from ldm.data.source import Source, digest, shown
from ldm.data.split import both
from ldm.data.tally import Tally
from ldm.types import Probability

_log = logging.getLogger(__name__)

Split = Literal["train", "val"]
_RECENT = 2**20  # the number of latest rows of a stream that the share of bad ones is computed over


class DataModule:
    """The training and validation batches of a run.

    Arguments:
        train, val: the sources of items; val may be None where `hold_out` says what takes its place.
        image_shape: (channels, height, width); channels are 1, 3 or 4.
        batch_size: size of the global batch, over all ranks and accumulated micro-batches.
        val_batch_size: size of a validation batch on one rank; by default that of a training micro-batch.
        workers: processes for each rank that decode images; with 0 the training process decodes them.
        seed: of the order, and of the choice of captions, crops and mirrors.
        flip: whether to mirror half of the training images. It is off by default, because it makes captions with "left" wrong.
        crop: where training images are cropped: at the `centre`, or at a `random` place.
        on_error: what to do about an image that cannot be used: `raise` an error, `skip` to the next one, or `replace` it by
            one that is drawn at random.
        max_bad: the share of images that cannot be used above which the run stops.
        cache: whether to keep decoded images in memory, which the workers of a rank share: a byte for each pixel and channel.
        max_pixels, max_bytes: an image above either cannot be used, and is not opened.
        root: the folder with the sources, for configs to refer to. Here it is only checked that it exists.
        hold_out: the share of `train` that is held out for validation where there is no `val`. It is chosen by a hash of what
            identifies each item, so that an item stays on its side when others are added.
    """

    def __init__(
        self,
        train: Source,
        val: Source | None,
        image_shape: tuple[PositiveInt, PositiveInt, PositiveInt],
        batch_size: PositiveInt,
        val_batch_size: PositiveInt | None = None,
        workers: NonNegativeInt = 2,
        seed: int = 0,
        flip: bool = False,
        crop: Literal["centre", "random"] = "centre",
        on_error: OnError = "skip",
        max_bad: Probability = 0.01,
        cache: bool = False,
        max_pixels: PositiveInt = MAX_PIXELS,
        max_bytes: PositiveInt = MAX_BYTES,
        root: Path | None = None,
        hold_out: Probability = 0.0,
    ):
        if root is not None and not Path(root).expanduser().is_dir():
            raise FileNotFoundError(f"data.root: no folder {root}; give the one that holds the data set")
        train, val = both(train, val, hold_out)
        if cache and (crop == "random" or train.stream is not None):
            raise ValueError(
                "data.cache=true keeps one picture of each row; it wants data.crop=centre and no streaming"
            )
        self.sources: dict[Split, Source] = {"train": train, "val": val}
        self.latents: dict[Split, LatentSource] | None = None
        if self.classes:
            _log.info("labels, by number: %s", shown([f"{i}: {name}" for i, name in enumerate(self.classes)]))
        self.image_shape, self.batch_size, self.val_batch_size = tuple(image_shape), batch_size, val_batch_size
        self.workers, self.seed, self.on_error, self.max_bad = workers, seed, on_error, max_bad
        self.transform = Transform(self.image_shape, crop, flip, max_pixels, max_bytes)
        self.plain = Transform(self.image_shape, "centre", False, max_pixels, max_bytes)
        self.bad_samples: Path | None = None
        self._tallies: dict[Split, Tally] = {}
        self._pixels: dict[Split, ImageCache] = {}
        if cache:
            self._pixels = {split: ImageCache(len(source), self.image_shape) for split, source in self.sources.items()}

    # What a run has to know of its data

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels, the same for both sets; empty where labels have no names or there are no labels."""
        return self.sources["train"].classes

    @property
    def label_count(self) -> int:
        """The number of labels: the number of their names, or else the largest label of either set plus 1; 0 without labels.

        Raises:
            ValueError: a stream has labels without names; its largest label is not known before it was read.
        """
        if self.classes:
            return len(self.classes)
        largest = -1
        for split, source in self.sources.items():
            if "label" not in source.columns:
                continue
            if source.stream is not None:
                raise ValueError(
                    f"data.{split}: the labels of a stream have no names, so nobody knows how many there are; say it "
                    "with condition.classes"
                )
            largest = max([largest, *(label for label in source.labels() if label is not None)])
        return largest + 1

    @property
    def fingerprint(self) -> str:
        """A hash of the content of both sets."""
        return digest([self.sources["train"].fingerprint, self.sources["val"].fingerprint])

    def overlap(self) -> str | None:
        """A sentence about held-out images that are also training images (ldm.data.overlap); None where none was found, or
        where training images are streamed and so cannot be searched."""
        if self.sources["train"].stream is not None:
            return None
        return overlap(self.sources["train"], self.sources["val"])

    @property
    def transform_key(self) -> str:
        """A text that names how stored images become tensors."""
        return self.transform.key

    def captions(self) -> Iterator[str]:
        """All usable training captions, every one of a list of captions, without decoding an image."""
        for stored in self.sources["train"].captions():
            for value in stored if isinstance(stored, list | tuple) else (stored,):
                text, _ = clean(value)
                if text:
                    yield text

    def counts(self) -> dict[str, int]:
        """How many items were seen, could not be used, and had each kind of problem with their caption, since the loaders were
        made. The names are `train seen`, `train bad`, and so on."""
        return {f"{split} {key}": n for split, tally in self._tallies.items() for key, n in tally.counts().items()}

    def items(self, split: Split, indices: Sequence[int]) -> dict[str, Any]:
        """A batch of the given rows as images, without augmentation, each with its first caption."""
        source = self.sources[split]
        if source.stream is not None:
            raise ValueError(f"the {split} set is streamed and has no rows to be named; take rows of the other set")
        items = Items(source, self._maker(split, self.plain, source), self.on_error)
        positions = [Position(index, -1, 0, row) for row, index in enumerate(indices)]
        return collate([items[position] for position in positions], len(positions))

    # Latents

    def with_latents(
        self, train: Path, val: Path, weights: str, features: Path | None = None, network: str = ""
    ) -> DataModule:
        """This data module with cached latents in place of images, and with cached features, too, in training.

        Arguments:
            train, val: the folders of the latent caches of both sets.
            weights: what names the encoder, as in `latent_key`.
            features: the folder of the cache of features; None for none.
            network: what names the network that the features are of.

        Raises:
            BadLatentsError: a cache is of another network or of other items.
        """
        other = copy.copy(self)
        other._tallies = {}
        stored = self._encoded(self.sources["train"], train, weights)
        if features is not None:
            stored = self._encoded(stored, features, network)
        val_key = self.latent_key("val", weights)
        other.latents = {"train": stored, "val": LatentSource(self.sources["val"], val, val_key)}
        return other

    def _encoded(self, source: Source, path: Path, weights: str) -> LatentSource:
        """The training source with the tensors of the cache at `path`."""
        found = LatentSource(source, path, self.latent_key("train", weights))
        if self.transform.flip and not found.flips:
            raise BadLatentsError(f"{path}: data.flip=true wants the mirrored latents too; build with flips=True")
        return found

    def latent_key(self, split: Split, weights: str) -> str:
        """A hash of everything that the latents of a split depend on: the encoder (`weights` is the hash of its weights, or
        what else names a network), the items, and how stored images become tensors."""
        if self.transform.crop == "random":
            raise ValueError(
                "data.crop=random has no latents to cache, for each epoch cuts anew; take data.crop=centre"
            )
        return digest([weights, self.sources[split].fingerprint, self.plain.key, self.on_error])

    def latent_items(self, split: Split) -> Items:
        """The items of a split that `ldm.data.latent.build` encodes, without random changes."""
        if self.sources[split].stream is not None:
            raise ValueError(f"the {split} set is streamed; its latents cannot be cached. Take streaming=false")
        return Items(self.sources[split], self._maker(split, self.plain, self.sources[split]), self.on_error)

    # Batches

    def loader(self, start: int, stop: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> DataLoader:
        """The micro-batches of this rank for the updates start, ..., stop - 1, `accumulate` of them for each update."""
        source = self._source("train")
        maker = self._maker("train", self.transform, source)
        if source.stream is not None:
            rows = StreamItems(
                *(source.stream, maker, self.on_error, self.batch_size),
                *(start, stop, rank, world, accumulate),
            )
            return DataLoader(rows, batch_size=None, **self._processes(self.workers))
        batches = Batches(len(source), self.batch_size, self.seed, start, stop, rank, world, accumulate)
        items = Items(source, maker, self.on_error)
        return DataLoader(
            items, batch_sampler=batches, collate_fn=Collate(self.batch_size), **self._processes(self.workers)
        )

    def val_loader(
        self, rank: int = 0, world: int = 1, accumulate: int = 1, images: PositiveInt | None = None
    ) -> DataLoader:
        """The validation batches of this rank: every world-th of the chosen rows, beginning with row `rank`, in order.

        Arguments:
            rank, world: number of this rank, and number of ranks.
            accumulate: micro-batches for each update, which decides the default size of a batch.
            images: how many rows to choose, spread evenly over the set, at least one for each rank; None chooses all.
        """
        source = self._source("val")
        size = self.val_batch_size or max(1, self.batch_size // (world * accumulate))
        every = range(len(source))
        rows = every if images is None else spread(every, max(images, world))
        positions = [Position(index, -1, 0, index) for index in rows[rank::world]]
        batches = [positions[i : i + size] for i in range(0, len(positions), size)]
        items = Items(source, self._maker("val", self.plain, source), self.on_error)
        # Reading latents is faster than starting processes that read them.
        processes = self._processes(self.workers if self.latents is None else 0)
        return DataLoader(items, batch_sampler=batches, collate_fn=Collate(len(source)), **processes)

    def _source(self, split: Split) -> Source:
        return self.sources[split] if self.latents is None else self.latents[split]

    def _maker(self, split: Split, transform: Transform, source: Source) -> Maker:
        if split not in self._tallies:
            count = len(source) if source.stream is None else _RECENT
            self._tallies[split] = Tally(count, split, self.max_bad, self.bad_samples)
        pictures = source is self.sources[split]  # of cached latents, no image may be taken from memory
        return Maker(transform, self.seed, self._tallies[split], self._pixels.get(split) if pictures else None)

    @staticmethod
    def _processes(workers: int) -> dict[str, Any]:
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "worker_init_fn": worker.begin,
            "multiprocessing_context": worker.context() if workers else None,
            "pin_memory": torch.cuda.is_available(),
            # The loader draws seeds that nothing uses; with a generator of its own it leaves the global one alone.
            "generator": torch.Generator().manual_seed(0),
        }


class Collate:
    """The collation of a data loader, as an object that can be sent to another process.

    Arguments:
        total: size of the global batch.
    """

    def __init__(self, total: int):
        self.total = total

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(examples, self.total)
