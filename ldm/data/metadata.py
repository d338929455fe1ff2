"""Captions from `metadata.jsonl` and `metadata.csv`, in the format that the library `datasets` reads from a folder of images:
one row for each image, with its path relative to the table in `file_name`, and a column with the text."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.files import read_text

TABLES = ("metadata.jsonl", "metadata.csv")
_COLUMNS = ("caption", "captions", "text", "prompt", "description")


class NoCaptions(ValueError):
    """A table without a column of captions or of file names; the message says which columns it has."""


def captions_of(table: Path) -> dict[str, list[Any]]:
    """The captions of each image in a metadata table, by the `place` of the image.

    Raises:
        NoCaptions: a column is missing.
        ValueError: the table is damaged; the message says where.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    column = None
    for number, row in enumerate(_rows(table), start=1):
        column = column or next((name for name in _COLUMNS if name in row), None)
        if column is None or "file_name" not in row:
            wanted = "file_name" if column else f"file_name and one of {', '.join(_COLUMNS)}"
            raise NoCaptions(f"{table}: row {number} has the columns {', '.join(map(str, row))}; wanted {wanted}")
        own = row.get(column)
        own = own if isinstance(own, list) else [own]
        found[place(table.parent / str(row["file_name"]))] += [caption for caption in own if caption not in (None, "")]
    return found


def place(path: Path) -> str:
    """A path in a unique spelling: without `.` and `..`, and with accented letters as one character, which some systems store
    as two."""
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    text = read_text(table)
    if table.suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parsed(line, f"{table} line {number}")
        if not isinstance(row, dict):
            raise ValueError(f'{table} line {number}: wanted a JSON object, as {{"file_name": ...}}; got {line[:40]!r}')
        yield row


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error})") from error
