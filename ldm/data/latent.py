"""Latent caches: the output of a frozen network for every item of a data set, computed once. It is the posterior of the first
stage, or the features for alignment.

Of a posterior the mean and the standard deviation are stored and not a sample, so that every epoch draws new samples. Where
training mirrors images, the posterior of the mirrored image is stored, too, because an encoder does not commute with
mirroring. Latents are stored as the encoder gives them, without whitening.

    shard-00000.safetensors ...   mean, std (n, c, h, w), perhaps mean_mirrored, std_mirrored; index (n,)
                                  or, of a vector quantiser, code (n, h, w) in 32 bits
    manifest.json                 key, items, shape, type, size and checksum of every shard; written last

Features (`feature`, perhaps feature_mirrored) have a cache of their own.

Each file is written under another name, flushed to the disk and renamed. So a file that is there is complete, and a build
that was killed continues with the next shard. `key` names everything that the latents depend on, and a cache with another
key is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data import worker
from ldm.data.batches import Position
from ldm.data.items import Items, collate
from ldm.data.source import Item, Source, Wrapped
from ldm.files import remove_leftovers, whole_file

Encode = Callable[[Tensor], dict[str, Tensor]]
_TYPES = {"float16": torch.float16, "float32": torch.float32}
_VERSION = 1


class BadLatentsError(ValueError):
    """A latent cache that cannot be used; the message says where and why."""


def build(
    encode: Encode,
    items: Items,
    path: Path,
    key: str,
    flips: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    shard: PositiveInt = 1024,
    batch_size: PositiveInt = 64,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Encode the shards of this rank, that is the shards rank, rank + world, ..., and write them to the folder `path`. Shards
    that are there already are left as they are. Returns whether all shards of this rank are there now.

    With one rank the cache is then complete. With more, `finish` has to be called on one of them when all have returned True.

    Arguments:
        encode: a function from images (b, c, h, w) in [-1, 1] on the CPU to `mean` and `std` of their latents, or to
            `feature`, each (b, c, h, w), on any device; or to `code` (b, h, w), whole numbers.
        items: the items to encode, without random changes (`DataModule.latent_items`).
        path: the folder of the cache.
        key: names everything that the latents depend on (`DataModule.latent_key`).
        flips: whether to encode the mirrored images, too.
        dtype: the type in which the numbers are stored.
        shard: items in a file.
        batch_size, workers: of the loader that reads the images.
        rank, world: number of this rank, and number of ranks.
        stopped: called before each batch; when it returns True the remaining shards are not encoded.

    Raises:
        BadLatentsError: a latent that is not finite (float16 ends at 65504), or shards of another key in `path`.
    """
    path.mkdir(parents=True, exist_ok=True)
    head = {"version": _VERSION, "key": key, "items": len(items), "shard": shard, "dtype": dtype, "flips": flips}
    numbers = range(rank, -(-len(items) // shard), world)
    missing = [number for number in numbers if not _is_there(_file(path, number), head)]
    batches = [rows for number in missing for rows in _rows(number, shard, len(items), batch_size)]
    encoded: list[dict[str, Tensor]] = []
    for rows, batch in zip(batches, _load(items, batches, workers), strict=True):
        if stopped():
            return False
        encoded.append(_encode(encode, batch, flips, _TYPES[dtype]))
        number, end = rows[0].row // shard, rows[-1].row + 1
        if end == min((number + 1) * shard, len(items)):
            tensors = {name: torch.cat([part[name] for part in encoded]).contiguous() for name in encoded[0]}
            with whole_file(_file(path, number)) as temporary:
                temporary.write_bytes(save(tensors, {"ldm": json.dumps(head, sort_keys=True)}))
            encoded = []
    if world == 1:
        finish(path)
    return True


def finish(path: Path) -> None:
    """Write the manifest of a cache whose shards are all there; BadLatentsError where one is not."""
    first = _file(path, 0)
    head = _head(first)
    count = -(-head["items"] // head["shard"])
    absent = [number for number in range(count) if not _is_there(_file(path, number), head)]
    if absent:
        raise BadLatentsError(
            f"{path}: {len(absent)} of {count} shards are not there, the first {_file(path, absent[0]).name}"
        )
    with safe_open(first, "numpy") as file:
        name = min(set(file.keys()) - {"index"})  # "mean", "code" or "feature"
        shape = file.get_slice(name).get_shape()[1:]
    files = [_file(path, number) for number in range(count)]
    remove_leftovers(path)
    shards = [{"file": f.name, "size": f.stat().st_size, "xxh3": _hash(f)} for f in files]
    manifest = head | {"shape": list(shape), "shards": shards}
    with whole_file(path / "manifest.json") as temporary:
        temporary.write_bytes(json.dumps(manifest, indent=1).encode())


class LatentSource(Wrapped):
    """A source whose items have the tensors of a cache in place of an image.

    Arguments:
        source: the source that captions and labels are taken from, perhaps another cache; its images are not read.
        path: the folder of the cache.
        key: the key that the cache has to have.
        verify: whether to compare the checksum of every shard (about a second per GB), and not only its size.

    Raises:
        BadLatentsError: the cache is incomplete, damaged, or has another key.
    """

    def __init__(self, source: Source, path: Path, key: str, verify: bool = True):
        super().__init__(source)
        self.path = Path(path)
        manifest = self._manifest()
        if manifest["key"] != key or manifest["items"] != len(source):
            raise BadLatentsError(
                f"{path}: made by another network, or of another data set or transform (key {manifest['key'][:12]}, "
                f"{manifest['items']} items; wanted {key[:12]}, {len(source)}); delete the folder to make them anew"
            )
        for entry in manifest["shards"]:
            file = self.path / entry["file"]
            size = file.stat().st_size if file.exists() else 0
            if size != entry["size"] or (verify and _hash(file) != entry["xxh3"]):
                what = f"{size} bytes, wanted {entry['size']}" if size != entry["size"] else "checksum differs"
                raise BadLatentsError(f"{file}: damaged ({what}); delete this file and manifest.json, and start again")
        self.shape: tuple[int, int, int] = tuple(manifest["shape"])
        self.flips: bool = manifest["flips"]
        self._key, self._shard = key, manifest["shard"]
        self._files = [self.path / entry["file"] for entry in manifest["shards"]]
        self._open: dict[int, dict[str, Any]] = {}

    def _manifest(self) -> dict[str, Any]:
        file = self.path / "manifest.json"
        if not file.exists():
            raise BadLatentsError(f"{file}: not there; the cache was not finished")
        try:
            manifest = json.loads(file.read_bytes())
            if manifest["version"] != _VERSION:
                raise BadLatentsError(f"{file}: version {manifest['version']}, wanted {_VERSION}; delete the folder")
        except (ValueError, KeyError, TypeError) as error:
            raise BadLatentsError(f"{file}: damaged ({error}); delete it and start again") from error
        return manifest

    def _slices(self, number: int) -> dict[str, Any]:
        """The tensors of a shard, which is mapped into memory when this process first needs it."""
        if number not in self._open:
            file = safe_open(self._files[number], "numpy")
            self._open[number] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return self._open[number]

    def __getitem__(self, index: int) -> Item:
        number, row = divmod(index, self._shard)
        own = {name: part[row] for name, part in self._slices(number).items()}
        # The facts of the item that was encoded. For an image that cannot be used this is its replacement.
        return self.source.facts(int(own.pop("index"))) | own

    def facts(self, index: int) -> Item:
        """The whole item, which has no image; so a cache over this one keeps what is stored here."""
        return self[index]

    @property
    def fingerprint(self) -> str:
        return self._key

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def _file(path: Path, number: int) -> Path:
    return path / f"shard-{number:05d}.safetensors"


def _rows(number: int, shard: int, items: int, batch_size: int) -> list[list[Position]]:
    """The batches of one shard. No batch spans two shards, so that a resumed build encodes the same batches."""
    end = min((number + 1) * shard, items)
    starts = range(number * shard, end, batch_size)
    return [[Position(i, -1, 0, i) for i in range(s, min(s + batch_size, end))] for s in starts]


def _load(items: Items, batches: list[list[Position]], workers: int) -> DataLoader:
    return DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=worker.begin,
        multiprocessing_context=worker.context() if workers else None,
        generator=torch.Generator().manual_seed(0),
    )


def _collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    return collate(examples, len(examples))


@torch.no_grad()
def _encode(encode: Encode, batch: dict[str, Any], flips: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    encoded = {"index": batch["index"]}
    for suffix, images in {"": batch["image"], "_mirrored": batch["image"].flip(-1) if flips else None}.items():
        if images is None:
            continue
        for name, value in encode(images).items():
            value = value.detach().to("cpu", dtype if value.is_floating_point() else torch.int32)
            finite = torch.isfinite(value).flatten(1).all(1)
            if not finite.all():
                rows = batch["index"][~finite].tolist()
                raise BadLatentsError(
                    f"the {name} of items {rows[:5]} is not finite as {dtype}; take float32, or look at the encoder"
                )
            encoded[name + suffix] = value
    return encoded


def _head(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, "numpy") as opened:
            return json.loads(opened.metadata()["ldm"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadLatentsError(f"{file}: damaged ({error}); delete it and start again") from error


def _is_there(file: Path, head: dict[str, Any]) -> bool:
    if not file.exists():
        return False
    found = _head(file)
    if found != head:
        differing = [k for k in head if found.get(k) != head[k]]
        raise BadLatentsError(
            f"{file}: of another build ({', '.join(differing)} differ); delete the folder or give another"
        )
    return True


def _hash(file: Path) -> str:
    state = xxhash.xxh3_64()
    with file.open("rb") as opened:
        while block := opened.read(2**22):
            state.update(block)
    return state.hexdigest()
