"""The two sets of a run, one for training and one held out. Each item is in one of them, and labels mean the same in both."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm.data.source import Item, Source, Subset, Wrapped, digest, shown

_LOOKED_AT = 100  # items whose captions and labels are checked at the start
_log = logging.getLogger(__name__)


def both(train: Source, val: Source | None, hold_out: float) -> tuple[Source, Source]:
    """The training set and the held-out set. Where `val` is None, the share `hold_out` of `train` is held out. The labels of
    the held-out set are renumbered to those of the training set.

    Raises:
        ValueError: no two sets can be made of what is given, a set is empty, captions or labels have a wrong type, or the
            held-out set has a class that the training set does not have.
    """
    train, val = _cut(train, val, hold_out)
    if val.stream is not None:
        raise ValueError(
            "data.val: validation is read by row, each once; give a source without streaming (data.val.streaming=false)"
        )
    for split, source in (("train", train), ("val", val)):
        if source.stream is None:
            _check(source, f"data.{split}")
    return train, _renumbered(val, train)


class Renumbered(Wrapped):
    """A source with its labels renumbered to another list of classes, in which they are found by name.

    Arguments:
        source: the source, whose labels have names.
        classes: the other list of names.

    Raises:
        ValueError: a class of the source is not in the list.
    """

    def __init__(self, source: Source, classes: Sequence[str]):
        super().__init__(source)
        self._classes = tuple(classes)
        number = {name: i for i, name in enumerate(self._classes)}
        strange = [name for name in source.classes if name not in number]
        if strange:
            raise ValueError(f"it has the class {shown(strange)}, which is not among {shown(self._classes)}")
        self._numbers = [number[name] for name in source.classes]

    def _renumber(self, item: Item) -> Item:
        label = item.get("label")
        return item if label is None or label < 0 else item | {"label": self._numbers[label]}

    def __getitem__(self, index: int) -> Item:
        return self._renumber(self.source[index])

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, *self._classes])

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def facts(self, index: int) -> Item:
        return self._renumber(self.source.facts(index))


def held_out(source: Source, share: float) -> tuple[Subset, Subset]:
    """A source split in two, with about the share `share` of its items in the second part.

    The part that an item is in depends on its `key` alone, so that it does not change when others are added. Each part has
    at least one item.

    Raises:
        ValueError: there are no two items with different keys.
    """
    rows = range(len(source))
    draws = [int(digest(["held out", source.key(index)]), 16) / 16**32 for index in rows]
    different = sorted(set(draws))
    if len(different) < 2:
        raise ValueError(f"a set of {len(rows)} items, {len(different)} of them different, cannot be cut in two")
    edge = min(max(share, different[0]), different[-2])
    return Subset(source, (i for i in rows if draws[i] > edge)), Subset(source, (i for i in rows if draws[i] <= edge))


def _cut(train: Source, val: Source | None, hold_out: float) -> tuple[Source, Source]:
    """The two sets; the second is a share of the first where it is not given."""
    if val is not None:
        if hold_out:
            raise ValueError(
                f"data.hold_out={hold_out:g} and data.val are both given; take data.hold_out=0, or data.val=null to hold out "
                "a share of the training set"
            )
        return train, val
    if not 0 < hold_out < 1:
        raise ValueError(
            f"data.val is not given and data.hold_out={hold_out:g} holds nothing out; give data.val, or data.hold_out=0.1 "
            "for a tenth of the training set"
        )
    if train.stream is not None:
        raise ValueError(
            "data.hold_out: a stream has no rows to hold out; take data.train.streaming=false, or give data.val"
        )
    try:
        parts = held_out(train, hold_out)
    except ValueError as error:
        raise ValueError(f"data.hold_out: {error}; give data.val") from error
    _log.info("%d of %d images are held out (data.hold_out=%g)", len(parts[1]), len(train), hold_out)
    return parts


def _check(source: Source, where: str) -> None:
    """Raise ValueError where there are no items, or where none of the first captions or labels has a possible type."""
    if len(source) == 0:
        raise ValueError(f"{where}: the source is empty")
    looked_at = [source.facts(index) for index in range(min(len(source), _LOOKED_AT))]
    captions = [own if isinstance(own, list | tuple) else (own,) for own in (each.get("caption") for each in looked_at)]
    _check_kind([each for own in captions for each in own], (str, bytes), f"{where}: the captions", "text")
    _check_kind([each.get("label") for each in looked_at], (int, np.integer), f"{where}: the labels", "whole numbers")


def _check_kind(values: list[Any], kinds: tuple[type, ...], what: str, wanted: str) -> None:
    """Raise ValueError where there are values and none of them is of these types. Single values of another type are no error
    here; each such item is dealt with when it is used."""
    # NaN in a table is a missing value.
    there = [each for each in values if each is not None and not (isinstance(each, float) and math.isnan(each))]
    if there and not any(isinstance(value, kinds) for value in there):
        raise ValueError(
            f"{what} are of type {type(there[0]).__name__}, as {str(there[0])[:80]}; wanted {wanted}. Name the column, or the "
            "part of it, that has them"
        )


def _renumbered(val: Source, train: Source) -> Source:
    """The held-out source with its labels renumbered to those of the training source."""
    if bool(train.classes) != bool(val.classes):
        if "label" in train.columns and "label" in val.columns:
            named, other = ("train", "val") if train.classes else ("val", "train")
            _log.warning(
                "the labels of data.%s have names, those of data.%s have none: numbers are taken to mean the same in both",
                *(named, other),
            )
        return val
    if val.classes == train.classes:
        return val
    try:
        return Renumbered(val, train.classes)
    except ValueError as error:
        raise ValueError(f"data.val: {error}, the classes of data.train") from error
