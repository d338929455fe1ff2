"""Which columns of a table hold the image, the caption and the label, and whether they can.

A column is given by its name or, where its cells are records, by a dotted path: `json.text` is the field `text` in the column
`json`, and `sentences.raw` is the list of the fields `raw` in a list of records. What a column holds is known from its type
before any row is read; within JSON it is known from the first rows. So a column that cannot hold captions or labels is
refused at the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Features, Image, Json, List, Value

Name = str | tuple[str, ...]
First = Callable[[str], list[Any]]  # returns the first cells of a column, for where its type does not say what they are

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "avif", "jp2")


@dataclass(frozen=True)
class Column:
    """A column of a table or a field of its records.

    Fields:
        name: the name of the column.
        path: the names of the nested fields, from the outermost to the innermost; empty for the whole cell.
        feature: the type of its values; None where only the rows can tell it, as within JSON.
    """

    name: str
    path: tuple[str, ...] = ()
    feature: Any = None

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))

    def of(self, cell: Any) -> Any:
        """The value in a cell of the column; None where a record does not have the field."""
        return _inside(cell, self.path)


def _inside(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return value
    if isinstance(value, str):  # undecoded JSON
        value = json.loads(value)
    if isinstance(value, list):
        return [_inside(each, path) for each in value]
    return _inside(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else None


def pick(name: Name, features: Features, kind: str) -> Column:
    """The column with a name, or with the first of several names that is there; ValueError if none is.

    Arguments:
        name: the name or the names.
        features: the types of the table's columns.
        kind: what the column is for, as "image" or "caption", for the message.
    """
    wanted = (name,) if isinstance(name, str) else tuple(name)
    for each in wanted:
        if each in features:
            return Column(each, (), features[each])
    for each in wanted:
        words = each.split(".")
        for cut in range(len(words) - 1, 0, -1):
            outer, path = ".".join(words[:cut]), tuple(words[cut:])
            if outer in features:
                return Column(outer, path, _below(features[outer], path, outer))
    names = " or ".join(wanted)
    raise ValueError(f"no column {names} for the {kind}; there are {', '.join(features)}; name it with {kind}=")


def _below(feature: Any, path: tuple[str, ...], outer: str) -> Any:
    """The type of the field `path` of `outer`, None where it is not known; ValueError if there is no such field."""
    if not path:
        return feature
    if isinstance(feature, Json):
        return None
    if isinstance(feature, List):
        inner = _below(feature.feature, path, outer)
        return None if inner is None else List(inner)
    if not isinstance(feature, dict):
        raise ValueError(f"the column {outer} holds {shown(feature)} and no records: there is no {outer}.{path[0]}")
    if path[0] not in feature:
        raise ValueError(f"no field {path[0]} in {outer}; there are {', '.join(feature)}")
    return _below(feature[path[0]], path[1:], f"{outer}.{path[0]}")


def images(name: Name | None, features: Features) -> tuple[Column, ...]:
    """The columns that may hold the image of a row. In each row the first one that is not empty is taken.

    Arguments:
        name: the column or the columns; None takes all columns with the type of images or, where there are none, the first
            whose name is one of `IMAGES`.
        features: the types of the table's columns.

    Raises:
        ValueError: no such column, or one that holds something else.
    """
    if name is None:
        found = [each for each in features if isinstance(features[each], Image)]
        found.sort(key=lambda each: IMAGES.index(each.lower()) if each.lower() in IMAGES else len(IMAGES))
    else:
        found = [each for each in ((name,) if isinstance(name, str) else name) if each in features]
    columns = [Column(each, (), features[each]) for each in found] or [pick(name or IMAGES[:6], features, "image")]
    for column in columns:
        if not _pictorial(column.feature):
            raise ValueError(
                f"the column {column} for the image holds {shown(column.feature)}; wanted images, their bytes or the "
                "paths of their files; name another with image="
            )
    return tuple(columns)


def _pictorial(feature: Any) -> bool:
    if isinstance(feature, dict):
        return bool(feature.keys() & {"bytes", "path"})
    return isinstance(feature, Image) or _is_text(feature)


def _is_text(feature: Any) -> bool:
    return is_string(feature) or (isinstance(feature, Value) and "binary" in feature.dtype)


def is_string(feature: Any) -> bool:
    """Whether a column of `datasets` holds text."""
    return isinstance(feature, Value) and "string" in feature.dtype


def caption(name: Name, features: Features, first: First) -> Column:
    """The column with the captions, which are texts or lists of texts; ValueError for a column of another type."""
    column = pick(name, features, "caption")
    values = [each for value in _values(column, first) for each in (value if isinstance(value, list) else [value])]
    if _is_text(_innermost(column.feature)) or (column.feature is None and _all(values, str)):
        return column
    raise ValueError(_refusal(column, "caption", "text, or a list of texts", values))


def label(name: Name, features: Features, first: First) -> Column:
    """The column with the labels, which are whole numbers or names of classes; ValueError for a column of another type."""
    column = pick(name, features, "label")
    feature, values = column.feature, _values(column, first)
    whole = isinstance(feature, Value) and re.fullmatch(r"u?int\d+|bool", feature.dtype)
    if whole or isinstance(feature, ClassLabel) or is_string(feature) or (feature is None and _all(values, str | int)):
        return column
    raise ValueError(_refusal(column, "label", "whole numbers (-1 for none), or the names of classes", values))


def _innermost(feature: Any) -> Any:
    return feature.feature if isinstance(feature, List) else feature


def _values(column: Column, first: First) -> list[Any]:
    """The values in the first rows, for JSON only, whose type does not say what it holds."""
    if column.feature is not None and not isinstance(column.feature, Json):
        return []
    values = [column.of(cell) for cell in first(column.name) if cell is not None]
    if isinstance(column.feature, Json):
        return [json.loads(value) for value in values]
    return [value for value in values if value is not None]


def _all(values: list[Any], kinds: Any) -> bool:
    return bool(values) and all(isinstance(value, kinds) for value in values)


def _refusal(column: Column, kind: str, wanted: str, values: list[Any]) -> str:
    feature = _innermost(column.feature)
    fields = feature if isinstance(feature, dict) else values[0] if values and isinstance(values[0], dict) else {}
    holds = shown(column.feature) if not values else shown(fields) if fields else type(values[0]).__name__
    hint = f"; name a field of them, as {kind}={column}.{next(iter(fields))}" if fields else ""
    return f"the column {column} for the {kind} holds {holds}; wanted {wanted}{hint}"


def shown(feature: Any) -> str:
    """A type in words."""
    if isinstance(feature, Value):
        return "nothing" if feature.dtype == "null" else feature.dtype
    if isinstance(feature, List):
        return f"lists of {shown(feature.feature)}"
    if isinstance(feature, dict):
        return f"records of {', '.join(feature)}"
    return "nothing in its first rows" if feature is None else type(feature).__name__
