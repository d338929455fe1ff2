"""Sources: where items come from, before anything is decoded.

An item is a mapping. It has `image` (a PIL image, encoded bytes, a path, or a uint8 array (h, w) or (h, w, c)), and perhaps
`caption` (a text, or a list of texts of which one is drawn in each epoch), `label` (an int; None or -1 where this item has
none) and `name` (what to call the item in messages). A source returns what is stored. How images are decoded and resized, and
how captions are cleaned, is the same for all sources (ldm.data.image, ldm.data.caption).

The fingerprint of a source is a hash of its content and does not depend on where it lies, so that what was computed from the
data is found again for a copy on another disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

Item = dict[str, Any]
COLUMNS = frozenset({"caption", "label"})


class Source(ABC):
    """Items by number: `len(source)`, and `source[i]` for 0 <= i < len(source), which is always the same item.

    A new one writes `__len__`, `__getitem__` and `fingerprint`; the other methods have defaults.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content: equal for equal items, and different where an item differs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; empty where labels have no names or there are no labels."""
        return ()

    @property
    def columns(self) -> frozenset[str]:
        """Which of "caption" and "label" there are: those that at least one item has."""
        own = COLUMNS & self.facts(0).keys()
        return frozenset(key for key in own if any(self.facts(i).get(key) is not None for i in range(len(self))))

    @property
    def stream(self) -> Stream | None:
        """The stream that takes the place of access by number; None where items can be accessed by number."""
        return None

    def facts(self, index: int) -> Item:
        """The item without its image. To be overridden where reading images is expensive."""
        return {key: value for key, value in self[index].items() if key != "image"}

    def key(self, index: int) -> str:
        """What identifies the item, wherever the data are and whatever is added to them: its name, or else its number."""
        return str(self.facts(index).get("name", index))

    def marks(self) -> Sequence[Hashable] | None:
        """A value for each item that is cheap to compute and is equal for equal images; None where there is none."""
        return None

    def captions(self) -> Iterator[Any]:
        """The stored captions, a text or a list for each item. To be overridden where making items is expensive."""
        for index in range(len(self)):
            yield self.facts(index).get("caption")

    def labels(self) -> Iterator[Any]:
        """The stored labels, an int or None for each item. To be overridden where making items is expensive."""
        for index in range(len(self)):
            yield self.facts(index).get("label")


class Stream(ABC):
    """Items in order, for a source that cannot be accessed by number. A new one writes `rows`."""

    @abstractmethod
    def rows(self, part: int, parts: int, seed: int) -> Iterator[Item]:
        """The items of reader `part`, one of `parts` readers that share out all items, in one pass; `seed` decides the
        order."""


class Wrapped(Source):
    """A source that wraps another one, and equals it wherever a subclass does not override a method."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        return self.source[index]

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def columns(self) -> frozenset[str]:
        return self.source.columns

    def facts(self, index: int) -> Item:
        return self.source.facts(index)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def marks(self) -> Sequence[Hashable] | None:
        return self.source.marks()


class Subset(Wrapped):
    """Some items of a source, in the given order."""

    def __init__(self, source: Source, indices: Iterable[int]):
        super().__init__(source)
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        return self.source[self.indices[index]]

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, *map(str, self.indices)])

    def facts(self, index: int) -> Item:
        return self.source.facts(self.indices[index])

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def marks(self) -> Sequence[Hashable] | None:
        marks = self.source.marks()
        return None if marks is None else [marks[index] for index in self.indices]


def shown(names: Sequence[str], most: int = 20) -> str:
    """The names separated by commas; of very many, the first ones and the last."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])}, ... {names[-1]} ({len(names)} in all)"


def digest(parts: Iterable[str | bytes]) -> str:
    """A hash of a sequence of parts, 32 hexadecimal digits. It depends on where one part ends and the next begins."""
    state = xxhash.xxh3_128()
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def sizes(files: Iterable[Path]) -> list[int]:
    """The size of each file in bytes; -1 for a file that is not there."""
    return [_size(file) for file in files]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def digest_files(files: Iterable[Path], root: Path, content: Callable[[Path], bool]) -> str:
    """A hash of the names below `root` and the sizes of files, and of the bytes of those for which `content` is true. For
    images name and size have to do, because reading a hundred thousand of them takes minutes. Times of modification are left
    out, because copying changes them."""
    parts: list[str | bytes] = []
    for file in files:
        parts += [file.relative_to(root).as_posix(), str(file.stat().st_size)]
        if content(file):
            parts.append(file.read_bytes())
    return digest(parts)
