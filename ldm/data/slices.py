"""Splits and parts of splits, in the notation of the library `datasets`: train, train[:90%], train[1000:2000]."""

from __future__ import annotations

import re

import datasets
from datasets import Dataset, IterableDataset, ReadInstruction

_NAME = re.compile(r"(?:^|\+)\s*(\w+(?:\.\w+)*)")
_HOW = (
    "wanted as train, train[:90%] or train[1000:2000], on the command line in two pairs of quotes: "
    "\"data.train.split='train[:90%]'\"; data.val=null data.hold_out=0.1 needs none"
)


def names_of(split: str) -> list[str]:
    """The names of the splits, without their parts; ValueError where the notation is wrong."""
    try:
        ReadInstruction.from_spec(split)
    except ValueError as error:
        raise ValueError(f"split={split}: {error}; {_HOW}") from error
    return list(dict.fromkeys(_NAME.findall(split)))


def is_part(split: str) -> bool:
    """Whether only a part of a split is meant, as by train[:90%]."""
    return "[" in split


def part_of(data: Dataset | IterableDataset, split: str) -> Dataset | IterableDataset:
    """The part of a whole split `data` that `split` names; ValueError where it has no rows."""
    if not is_part(split):
        return data
    name, *others = names_of(split)
    if others:
        raise ValueError(f"split={split}: parts of several splits of files; name one. {_HOW}")
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(data)})
    except ValueError as error:
        raise ValueError(f"split={split}: {error}; {_HOW}") from error
    rows = [data.select(range(part.from_, part.to)) for part in parts if part.from_ < part.to]
    if not rows:
        raise ValueError(f"split={split}: none of the {len(data)} rows; {_HOW}")
    return rows[0] if len(rows) == 1 else datasets.concatenate_datasets(rows)


def unknown(name: str, names: list[str]) -> ValueError:
    """The error for a split that a data set does not have; `names` are those that it has."""
    one = names[0]
    return ValueError(
        f"no split {name}; there are {', '.join(names)}. Two can be cut from one: "
        f"\"data.train.split='{one}[:90%]'\" \"data.val.split='{one}[90%:]'\" (with both pairs of quotes), or "
        "data.val=null data.hold_out=0.1"
    )
