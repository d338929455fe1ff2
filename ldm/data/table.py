"""The rows of a `Dataset` of the library `datasets` as items, or those of an `IterableDataset` as a stream.

Cells are taken as they are stored. Images are decoded later, by the same rules as all others (ldm.data.image), so that a
damaged image is one bad item and not a crash. Labels that are words become numbers, in the natural order of the words.

A stream has no length. Its first captions stand for all of them, and where labels are words it is read once completely, to
know all words.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Image, IterableDataset, IterableDatasetDict, Json
from pydantic import PositiveInt

from ldm.data import columns
from ldm.data.cells import content, names, sizes, stored, without_bytes
from ldm.data.columns import Column, Name
from ldm.data.source import Item, Source, Stream, digest
from ldm.data.stream import BATCH, Cells, TableStream, unpacked
from ldm.data.tree import natural

log = logging.getLogger(__name__)

CAPTIONS = 10_000  # the number of captions of a stream that stand for all of them
_FIRST = 32  # rows that are read to identify a stream, and to find out what types do not say
_WHOLE = 1024  # images that are read for the fingerprint


class Table(Source):
    """A table as a source: rows with an image and perhaps a caption and a label.

    Arguments:
        data: one split of a data set.
        image: the column of the images or of their paths. Of several names, in each row the first that is not empty is
            taken. By default these are all columns with images.
        caption, label: columns, or dotted paths to a field of their records; of several names the first that is there;
            None for none.
        group: a column that is equal for all rows of one image, for data sets that repeat an image for each caption.
        buffer: number of rows of a stream that are shuffled with each other.
        name: what to call the data set in messages.

    Raises:
        TypeError: `data` is not one split of a data set.
        ValueError: there is no such column, or its type cannot be used.
    """

    def __init__(
        self,
        data: Dataset | IterableDataset,
        image: Name | None = None,
        caption: Name | None = None,
        label: Name | None = None,
        group: Name | None = None,
        buffer: PositiveInt = 1000,
        name: str = "data set",
    ):
        if isinstance(data, DatasetDict | IterableDatasetDict):
            raise TypeError(f"{name}: several splits; give one of them, as data[{next(iter(data), 'train')!r}]")
        if not isinstance(data, Dataset | IterableDataset):
            raise TypeError(f"{name}: {type(data).__name__}; wanted a datasets.Dataset or datasets.IterableDataset")
        self._name, self._streaming, self._buffer = name, isinstance(data, IterableDataset), buffer
        try:
            self._data = _undecoded(data)
            self._choose(image, caption, label, group)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _choose(self, image: Name | None, caption: Name | None, label: Name | None, group: Name | None) -> None:
        features = self._data.features
        self._images = columns.images(image, features)
        for column in self._images:
            self._check_paths(column)
        self._words: dict[str, Column] = {}
        if caption is not None:
            self._words["caption"] = columns.caption(caption, features, self._first)
        if label is not None:
            self._words["label"] = columns.label(label, features, self._first)
        by = None if group is None else columns.pick(group, features, "group")
        if self._streaming and by is not None:
            raise ValueError(
                f"rows cannot be grouped by {by} while streaming; take data.train.streaming=false, or data.train.group=null "
                "(and say data.val.group where only that set is to be grouped)"
            )
        self._groups = None if by is None else _groups(self._values(by))
        if not self._streaming:
            self._images = self._filled(self._images)
        own = dict.fromkeys(column.name for column in (*self._images, *self._words.values()))
        self._data = self._data.select_columns(list(own))
        listed = self._groups is not None and "caption" in self._words
        self._captions = self._data.select_columns([self._words["caption"].name]) if listed else None
        self._numbers, self._classes = self._label_words()

    def _filled(self, found: tuple[Column, ...]) -> tuple[Column, ...]:
        """The columns that are not empty in all rows. A tar has a column for each image format, and most of them are empty."""
        table = self._data.data
        full = tuple(column for column in found if table.column(column.name).null_count < table.num_rows)
        return full or found[:1]

    def _check_paths(self, column: Column) -> None:
        """Raise ValueError where a column has web addresses instead of images."""
        if not columns.is_string(column.feature):
            return
        address = next((cell for cell in self._first(column.name) if cell and "://" in cell), None)
        if address is not None:
            raise ValueError(
                f"the column {column} for the image holds addresses, as {address}; wanted images or paths of files: "
                "download them first"
            )

    def _label_words(self) -> tuple[dict[str, int] | None, tuple[str, ...]]:
        """The number of each word that is a label, or None where labels are numbers; and the names of the classes."""
        column = self._words.get("label")
        if column is None:
            return None, ()
        if isinstance(column.feature, ClassLabel):
            return None, tuple(column.feature.names)
        first = () if column.feature is not None else map(column.of, self._first(column.name))
        if not columns.is_string(column.feature) and not any(isinstance(value, str) for value in first):
            return None, ()
        if self._streaming:
            log.info("%s: reading the labels once, to know their classes", self._name)
        words = sorted({str(value) for value in self._values(column) if value is not None}, key=natural)
        return {word: i for i, word in enumerate(words)}, tuple(words)

    def _first(self, name: str) -> list[Any]:
        """The first cells of a column."""
        data = self._data.select_columns([name])
        if self._streaming:
            return next(data.iter(_FIRST), {name: []})[name]
        return data[:_FIRST].column(name).to_pylist()

    def _values(self, column: Column) -> Iterator[Any]:
        """The values of all rows."""
        for batch in self._data.select_columns([column.name]).iter(BATCH if self._streaming else 10_000):
            cells = batch[column.name]
            yield from map(column.of, cells if self._streaming else cells.to_pylist())

    # By number

    def __len__(self) -> int:
        self._not_streaming()
        return len(self._data) if self._groups is None else len(self._groups)

    def __getitem__(self, index: int) -> Item:
        return self._item(self._rows(index), with_image=True)

    def facts(self, index: int) -> Item:
        return self._item(self._rows(index), with_image=False)

    def _not_streaming(self) -> None:
        if self._streaming:
            raise TypeError(f"{self._name} is streamed: it has no length and no rows by number; take streaming=false")

    def _rows(self, index: int) -> list[int]:
        """The rows of an item."""
        self._not_streaming()
        return [index] if self._groups is None else self._groups[index]

    def _item(self, rows: list[int], with_image: bool) -> Item:
        table = self._data[rows[0]]
        cells = {column.name: table.column(column.name)[0].as_py() for column in self._words.values()}
        for column in self._images:
            cell = table.column(column.name)[0]
            cells[column.name] = cell.as_py() if with_image else without_bytes(cell)
        item = self._made(cells, f"{self._name} row {rows[0]}")
        if self._captions is not None:
            column = self._words["caption"]
            item["caption"] = list(map(column.of, self._captions[rows].column(column.name).to_pylist()))
        return item if with_image else {key: value for key, value in item.items() if key != "image"}

    def _made(self, cells: Cells, name: str) -> Item:
        """The item of a row."""
        held = next((cell for column in self._images if stored(cell := cells[column.name]) is not None), None)
        place = held.get("path") if isinstance(held, Mapping) else held if isinstance(held, str) else None
        item = {"image": stored(held), "name": f"{name} ({place})" if place else name}
        return item | {key: self._value(key, column.of(cells[column.name])) for key, column in self._words.items()}

    def _value(self, key: str, value: Any) -> Any:
        if key != "label" or value is None or self._numbers is None:
            return value
        return self._numbers[str(value)]

    # All rows

    def captions(self) -> Iterator[Any]:
        if "caption" not in self._words:
            return iter(())
        return islice(self._values(self._words["caption"]), CAPTIONS if self._streaming else None)

    def labels(self) -> Iterator[Any]:
        self._not_streaming()
        if "label" not in self._words:
            return iter([None] * len(self))
        values = (self._value("label", value) for value in self._values(self._words["label"]))
        if self._groups is None:
            return values
        firsts = {rows[0] for rows in self._groups}  # groups are in the order of their first rows
        return (value for row, value in enumerate(values) if row in firsts)

    def key(self, index: int) -> str:
        """The item's number: new rows are usually added at the end."""
        return str(index)

    def marks(self) -> list[Any]:
        """The size of each item's image, in bytes."""
        self._not_streaming()
        found: list[Any] = []
        for table in self._data.iter(10_000):
            held = [sizes(table.column(column.name)) for column in self._images]
            found += [next((size for size in own if size is not None), None) for own in zip(*held, strict=True)]
        return found if self._groups is None else [found[rows[0]] for rows in self._groups]

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @cached_property
    def columns(self) -> frozenset[str]:
        """Those of "caption" and "label" that were given a column; without streaming, only if it is not empty in all rows."""
        if self._streaming:
            return frozenset(self._words)
        return frozenset(
            key for key, column in self._words.items() if any(value is not None for value in self._values(column))
        )

    @property
    def stream(self) -> Stream | None:
        return TableStream(self._data, self._made, self._name, self._buffer) if self._streaming else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all captions and labels, of the sizes of all images, and of the content of 1024 images, because reading
        all images of a large set would take minutes. For a stream it is a hash of the first rows."""
        return digest(self._parts())

    def _parts(self) -> Iterator[str | bytes]:
        yield from (str(sorted(self._words)), str(self._classes))
        if self._streaming:
            yield str(self._data.num_shards)
            for row in unpacked(next(self._data.iter(_FIRST), {})):
                item = self._made(row, "")
                yield from (str([item[key] for key in self._words]), content(item["image"]))
            return
        yield str(len(self))
        yield from map(str, self._groups or ())
        for table in self._data.iter(10_000):
            for key, column in self._words.items():
                yield str([self._value(key, column.of(cell)) for cell in table.column(column.name).to_pylist()])
            for column in self._images:
                yield str(sizes(table.column(column.name)))
                yield str(names(table.column(column.name)))
        for row in range(0, len(self._data), max(1, len(self._data) // _WHOLE)):
            yield content(self._item([row], with_image=True)["image"])


def _undecoded(data: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The data with images and JSON left undecoded, and a `Dataset` as arrow tables."""
    if isinstance(data, Dataset):
        if data.format["type"] == "custom":
            raise ValueError("it has a transform (set_transform); give it without, images are decoded and cropped here")
        data = data.with_format("arrow")
    elif data.features is None:  # the columns of a stream without a schema are inferred from its first rows
        data = data._resolve_features()
    for name, feature in data.features.items():
        if isinstance(feature, Image | Json) and feature.decode:
            data = data.cast_column(name, type(feature)(decode=False))
    return data


def _groups(keys: Iterable[Any]) -> list[list[int]]:
    rows: dict[Any, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        rows[key].append(i)
    return list(rows.values())
