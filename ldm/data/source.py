"""A source: where items come from, before anything is decoded.

An item is a mapping: `image` (a PIL image, encoded bytes, a path, or a uint8 array (h, w), (h, w, c)), perhaps
`caption` (a string or a list of them, of which one is drawn per epoch), `label` (an int; None or -1 where this item has
none), `name` (what to call it in a message). A source hands out what is stored; size, decoding and captions are the data
module's policy, the same for all sources.

Its fingerprint names the content and not the place, so that a copy of the data on another disk finds the same
artifacts.
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
    """Map-style items: `len(source)`, `source[i]` for 0 <= i < len(source), the same item whenever asked."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names the content: equal for equal items, different where an item differs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; empty where labels have none or there are no labels."""
        return ()

    @property
    def columns(self) -> frozenset[str]:
        """Which of "caption" and "label" its items have: some of them, since here and there one may lack its own."""
        own = COLUMNS & self.facts(0).keys()
        return frozenset(key for key in own if any(self.facts(i).get(key) is not None for i in range(len(self))))

    @property
    def stream(self) -> Stream | None:
        """The reading in order that takes the place of random access; None where there is random access."""
        return None

    def facts(self, index: int) -> Item:
        """The item without its image. Override where images are costly to fetch."""
        return {key: value for key, value in self[index].items() if key != "image"}

    def key(self, index: int) -> str:
        """What the item is known by, wherever the data lie and whatever is added to them: its name, or its number."""
        return str(self.facts(index).get("name", index))

    def marks(self) -> Sequence[Hashable] | None:
        """A word for each item, cheap to find: images that are equal have equal ones. None where nothing is cheap."""
        return None

    def captions(self) -> Iterator[Any]:
        """The stored captions, one entry (a string or a list) per item. Override where items are costly to make."""
        for index in range(len(self)):
            yield self.facts(index).get("caption")

    def labels(self) -> Iterator[Any]:
        """The stored labels, one (an int, or None) per item. Override where items are costly to make."""
        for index in range(len(self)):
            yield self.facts(index).get("label")


class Stream(ABC):
    """Items in order, for a source too large to be addressed."""

    @abstractmethod
    def rows(self, part: int, parts: int, seed: int) -> Iterator[Item]:
        """The items of one of `parts` disjoint readers in one pass, in an order that `seed` decides."""


class Wrapped(Source):
    """A source around another; as the other where it does not say more."""

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
    """Some rows of a source, in the order given."""

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
    """The names in a row, the first and the last of very many."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])}, ... {names[-1]} ({len(names)} in all)"


def digest(parts: Iterable[str | bytes]) -> str:
    """A hash of the sequence of parts, 32 hexadecimal digits; where one part ends and the next begins counts."""
    state = xxhash.xxh3_128()
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def sizes(files: Iterable[Path]) -> list[int]:
    """Bytes of each file; -1 of one that is not there."""
    return [_size(file) for file in files]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def digest_files(files: Iterable[Path], root: Path, content: Callable[[Path], bool]) -> str:
    """A hash of files: names below `root` and sizes, and the bytes of those that `content` picks. Pictures go by name
    and size, since reading a hundred thousand of them takes minutes; times are left out, since copying changes them."""
    parts: list[str | bytes] = []
    for file in files:
        parts += [file.relative_to(root).as_posix(), str(file.stat().st_size)]
        if content(file):
            parts.append(file.read_bytes())
    return digest(parts)
