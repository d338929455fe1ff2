"""Which columns of a table are the image, the caption and the label, and what they have to hold.

A column is named by its name or, where its cells are records, by a dotted path into them: `json.text` is the field text of
the column json, `sentences.raw` the list of that field in a list of records. What a column holds is known from its type
before a row is read (below JSON from the first rows), so what cannot be a caption or a label is refused at the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Features, Image, Json, List, Value

Name = str | tuple[str, ...]
First = Callable[[str], list[Any]]  # the first cells of a column, read where types do not tell

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "avif", "jp2")


@dataclass(frozen=True)
class Column:
    """A column of a table or a field of its records.

    Fields:
        name: of the column.
        path: of the field, from the outside in; empty for the whole cell.
        feature: the type of its values; None where only the rows tell, as below JSON.
    """

    name: str
    path: tuple[str, ...] = ()
    feature: Any = None

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))

    def of(self, cell: Any) -> Any:
        """The value in a cell of the column; None where a record lacks the field."""
        return _inside(cell, self.path)


def _inside(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return value
    if isinstance(value, str):  # JSON, as it is stored
        value = json.loads(value)
    if isinstance(value, list):
        return [_inside(each, path) for each in value]
    return _inside(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else None


def pick(name: Name, features: Features, kind: str) -> Column:
    """The column of that name, of several names the first that is there; ValueError if none is.

    Arguments:
        kind: "image", "caption", ...: what it is for, in the message.
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
    """The type of a field of `outer`, None where it cannot be known; ValueError if there is no such field."""
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
    """The columns that may hold a row's image, of which the first that is not empty does.

    Arguments:
        name: None takes all columns of images or, where none is of that type, the first whose name says so.
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
    """The column of the captions: texts, or lists of texts; ValueError for one of another type."""
    column = pick(name, features, "caption")
    values = [each for value in _values(column, first) for each in (value if isinstance(value, list) else [value])]
    if _is_text(_innermost(column.feature)) or (column.feature is None and _all(values, str)):
        return column
    raise ValueError(_refusal(column, "caption", "text, or a list of texts", values))


def label(name: Name, features: Features, first: First) -> Column:
    """The column of the labels: whole numbers, or the names of classes; ValueError for one of another type."""
    column = pick(name, features, "label")
    feature, values = column.feature, _values(column, first)
    whole = isinstance(feature, Value) and re.fullmatch(r"u?int\d+|bool", feature.dtype)
    if whole or isinstance(feature, ClassLabel) or is_string(feature) or (feature is None and _all(values, str | int)):
        return column
    raise ValueError(_refusal(column, "label", "whole numbers (-1 for none), or the names of classes", values))


def _innermost(feature: Any) -> Any:
    return feature.feature if isinstance(feature, List) else feature


def _values(column: Column, first: First) -> list[Any]:
    """What the first rows hold, of JSON alone, whose type does not tell it."""
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
