"""Whatever the library `datasets` reads: a name on the hub, local parquet, a folder of images, webdataset tars.

Its image columns are left encoded, so that the one image policy decodes them and a damaged image is one bad item and
not a crash. With `streaming` nothing is downloaded ahead: files (or, where there are fewer files than readers, rows)
are shared out among ranks and workers, and rows are shuffled in a buffer.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Image
from pydantic import PositiveInt

from ldm.data.source import Item, Source, Stream, digest
from ldm.random import seed_of

Column = str | tuple[str, ...]


class Hub(Source):
    """A split of any data set that `datasets` can read.

    Arguments:
        path: a name on the hub.
        split: the split, perhaps a part of it: "train", "train[:90%]".
        name: the data set's configuration, where it has several.
        root: a folder that is read in place of `path`.
        files: patterns of files below the root, as "train*.parquet"; they are then the whole of the split, whatever
            its name.
        builder: what reads these files: "parquet", "webdataset", "json", ...
        image, caption, label: the columns; of several names the first that is there; None for none.
        group: the column that tells which rows are of one image, for sets that repeat the image for each caption.
        streaming: read in order and not by row.
        buffer: rows among which a stream is shuffled.
    Raises:
        FileNotFoundError, ConnectionError, ValueError: not there and not to be had; no such split or column.
    """

    def __init__(
        self,
        path: str | None = None,
        split: str = "train",
        name: str | None = None,
        root: Path | None = None,
        files: str | tuple[str, ...] | None = None,
        builder: str = "parquet",
        image: Column = ("image", "img", "jpg", "png", "webp"),
        caption: Column | None = None,
        label: Column | None = None,
        group: str | None = None,
        streaming: bool = False,
        buffer: PositiveInt = 1000,
    ):
        self._name = f"{root or path}/{files or split}"
        self._data = _load(*_where(path, split, root, files, builder), name, streaming)
        if self._data.features is None:  # a stream without a schema tells its columns by its first rows
            self._data = self._data._resolve_features()
        features = self._data.features
        self._columns = {"image": _pick(image, features, "image")}
        for key, column in (("caption", caption), ("label", label)):
            if column is not None:
                self._columns[key] = _pick(column, features, key)
        if isinstance(features[self._columns["image"]], Image):
            self._data = self._data.cast_column(self._columns["image"], Image(decode=False))
        own = self._columns.values()
        self._data = self._data.select_columns([*own, *([group] if group else [])])
        label_feature = features[self._columns["label"]] if "label" in self._columns else None
        self._classes = tuple(label_feature.names) if isinstance(label_feature, ClassLabel) else ()
        self._streaming, self._buffer = streaming, buffer
        if streaming and group:
            raise ValueError(
                f"{self._name}: rows cannot be grouped by {group} while streaming; take streaming=false or no group"
            )
        if not streaming:
            words = [column for key, column in self._columns.items() if key != "image"]
            self._facts = self._data.select_columns(words) if words else None
            self._groups = None if group is None else _groups(self._data.select_columns([group])[group])

    def __len__(self) -> int:
        if self._streaming:
            raise TypeError(f"{self._name} is streamed: it has no length and no rows by number; take streaming=false")
        return len(self._data) if self._groups is None else len(self._groups)

    def __getitem__(self, index: int) -> Item:
        if self._streaming:
            raise TypeError(f"{self._name} is streamed: it has no length and no rows by number; take streaming=false")
        row = self._data[index if self._groups is None else self._groups[index][0]]
        if self._groups is None:
            return self._item(row, f"{self._name} row {index}")
        return {"image": _encoded(row[self._columns["image"]])} | self.facts(index)

    def facts(self, index: int) -> Item:
        if self._facts is None:
            return {"name": f"{self._name} row {index}"}
        if self._groups is None:
            return self._words(self._facts[index]) | {"name": f"{self._name} row {index}"}
        rows = [self._words(self._facts[i]) for i in self._groups[index]]
        item = rows[0] | {"name": f"{self._name} row {self._groups[index][0]}"}
        return item | {"caption": [row["caption"] for row in rows]} if "caption" in item else item

    def captions(self) -> Iterator[Any]:
        if "caption" not in self._columns:
            return iter(())
        rows = self._data if self._streaming else self._facts
        return (row[self._columns["caption"]] for row in rows.select_columns([self._columns["caption"]]))

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def stream(self) -> Stream | None:
        return HubStream(self._data, self._item, self._name, self._buffer) if self._streaming else None

    @cached_property
    def fingerprint(self) -> str:
        """Of the schema, the words and the lengths of all images, and 1024 whole rows: reading all of a large set
        would take minutes. A stream is named by what was asked for."""
        parts: list[str | bytes] = [str(sorted(self._columns)), str(self._classes)]
        if self._streaming:
            return digest([self._name, *parts])
        parts.append(str(len(self)))
        for batch in self._data.with_format("arrow").iter(10_000):
            for key, column in self._columns.items():
                values = batch[column]
                parts.append(str(_lengths(values).to_pylist() if key == "image" else values.to_pylist()))
        step = max(1, len(self._data) // 1024)
        parts += [bytes(str(self._data[i]), "utf-8", "surrogatepass") for i in range(0, len(self._data), step)]
        return digest(parts)

    def key(self, index: int) -> str:
        """The item's number: a set grows at its end."""
        return str(index)

    def marks(self) -> list[Any] | None:
        """The length of each stored image."""
        column = self._columns["image"]
        batches = self._data.select_columns([column]).with_format("arrow").iter(10_000)
        lengths = [length for batch in batches for length in _lengths(batch[column]).to_pylist()]
        return lengths if self._groups is None else [lengths[rows[0]] for rows in self._groups]

    def _words(self, row: dict[str, Any]) -> Item:
        return {key: row[column] for key, column in self._columns.items() if key != "image"}

    def _item(self, row: dict[str, Any], name: str) -> Item:
        return {"image": _encoded(row[self._columns["image"]]), "name": name} | self._words(row)


class HubStream(Stream):
    """The rows of a streamed `Hub`: its files in a drawn order, the rows of a reader mixed in a buffer."""

    def __init__(self, data: Any, item: Callable[[dict[str, Any], str], Item], name: str, buffer: int):
        self.data, self.item, self.name, self.buffer = data, item, name, buffer

    def rows(self, part: int, parts: int, seed: int) -> Iterator[Item]:
        files = self.data.num_shards
        order = random.Random(seed).sample(range(files), files)
        shared = files < parts
        rows = islice(self._read(order), part, None, parts) if shared else self._read(order[part::parts])
        for number, row in enumerate(_mixed(rows, self.buffer, random.Random(seed_of(seed, part)))):
            yield self.item(row, f"{self.name} reader {part} of {parts}, row {number}")

    def _read(self, files: list[int]) -> Iterator[dict[str, Any]]:
        for file in files:
            # By batches, since plain iteration would share the files out among data workers a second time.
            for batch in self.data.shard(self.data.num_shards, file).iter(1):
                yield {column: values[0] for column, values in batch.items()}


def _mixed(rows: Iterator[Any], size: int, draw: random.Random) -> Iterator[Any]:
    """Each row waits in a buffer until it is drawn."""
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


def _where(
    path: str | None, split: str, root: Path | None, files: str | tuple[str, ...] | None, builder: str
) -> tuple[str, dict[str, Any]]:
    """The first argument of `load_dataset`, and those that say which files and which split."""
    if root is None:
        if path is None:
            raise ValueError("a data set needs a name on the hub (path=) or a folder (data.root=DIR); neither is given")
        return path, {"split": split}
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {root}; give the one that holds {files or 'the data'} with data.root=DIR")
    if files is None:
        return str(root), {"split": split}
    names = (files,) if isinstance(files, str) else files
    found = sorted(str(file) for name in names for file in Path(root).glob(name))
    if not found:
        raise FileNotFoundError(
            f"{root}: no file {' or '.join(names)} below it; give the folder that has it with data.root=DIR"
        )
    return builder, {"data_files": {"train": found}, "split": "train"}


def _load(path: str, where: dict[str, Any], name: str | None, streaming: bool) -> Any:
    try:
        return datasets.load_dataset(path, name, streaming=streaming, **where)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise _unreachable(path, error) from error
    except ValueError as error:
        if "Couldn't find cache" in str(error) or "offline" in str(error).lower():
            raise _unreachable(path, error) from error
        raise


def _unreachable(path: str, error: Exception) -> ConnectionError:
    cache = datasets.config.HF_DATASETS_CACHE
    set_ = [f"{key}={os.environ[key]}" for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if key in os.environ]
    forbidden = f" ({', '.join(set_)} forbids asking)" if set_ else ""
    return ConnectionError(
        f"the data set {path!r} is neither in the cache ({cache}; moved with HF_HOME or HF_DATASETS_CACHE) nor to be "
        f"had from the hub{forbidden}: {str(error).splitlines()[0]}. Check the name and the network, or give local "
        f"files with data.root=DIR"
    )


def _pick(column: Column, features: datasets.Features, what: str) -> str:
    wanted = (column,) if isinstance(column, str) else tuple(column)
    for name in wanted:
        if name in features:
            return name
    raise ValueError(
        f"no column {' or '.join(wanted)} for the {what}; there are {', '.join(features)}; name it with {what}="
    )


def _encoded(value: Any) -> Any:
    """What the image policy takes, of a column's undecoded value."""
    if isinstance(value, dict):
        return value["bytes"] if value.get("bytes") is not None else value.get("path")
    return value


def _lengths(images: pa.ChunkedArray) -> Any:
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    return pc.binary_length(images) if pa.types.is_binary(images.type) or pa.types.is_string(images.type) else images


def _groups(keys: Iterable[Any]) -> list[list[int]]:
    rows: dict[Any, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        rows[key].append(i)
    return list(rows.values())
