"""A run as its directory tells it, whoever wrote that and however it ended: nothing of it is executed, built or unpickled.

    run.json         what the run says of itself
    config.yaml      its settings; without them it is a row of its own
    records.jsonl    its numbers; a line that is no record of this version, or cannot be true, is left out and told
    metrics.jsonl    its curves, read when they are drawn (ldm.report.curve)
    samples/         its pictures, read when they are shown (ldm.report.gallery)

Files of strangers may be anything, so that there are limits to what is read of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ldm.report.quantity import quantity
from ldm.report.words import number
from ldm.run.record import MUST_AGREE, Record, current

_LARGEST = 1 << 26  # bytes of a file that is read whole
_SETTINGS = 20_000  # of a config; a file of a few lines can be written that has more than a memory holds
_RECORD = TypeAdapter(Record)


class NoRun(ValueError):
    """A directory that is left out of a report; the message says why."""


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Fields:
        path: its directory.
        name: it is called by it on the page.
        facts: of run.json.
        settings: of config.yaml, by dotted key; empty where there is none.
        records: of the weights that it has now, the newest of each number.
        notes: what was wrong with it, and what was left out of it.
    """

    path: Path
    name: str
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    records: Sequence[Record]
    notes: Sequence[str] = field(default=())

    @property
    def status(self) -> str:
        """`finished`, `training`, `stopped`, ..., or `unknown`."""
        return str(self.facts.get("status") or "unknown")


def read(path: Path, name: str) -> Run:
    """The run in a directory. Raises NoRun where there is none, or nothing of it can be read."""
    if not path.is_dir():
        raise NoRun("there is no such directory")
    if not any((path / file).is_file() for file in ("run.json", "config.yaml", "records.jsonl")):
        raise NoRun("this is no run: it has neither run.json, config.yaml nor records.jsonl")
    notes: list[str] = []
    try:
        facts, settings = _facts(path / "run.json", notes), _settings(path / "config.yaml", notes)
        records = _true(_records(path / "records.jsonl", notes), settings.get("seed"), notes)
    except OSError as error:
        raise NoRun(f"it cannot be read ({error})") from error
    if not records:
        notes.append("it has no number that can be read, so it is in no table")
    return Run(path, name, facts, settings, _newest(records), tuple(notes))


def text(path: Path) -> str:
    """The text of a file of moderate size. Raises OSError, also where it is too large."""
    if path.stat().st_size > _LARGEST:
        raise OSError(f"{path.name} has more than {_LARGEST >> 20} MB")
    return path.read_text(encoding="utf-8", errors="replace")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one a line, one after the other; what is torn is skipped."""
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                found = _parsed(line)
                if isinstance(found, dict):
                    yield found


def _parsed(line: bytes | str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # torn, undecodable, or nested to break a reader
        return None


def _facts(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append("it has no run.json, so what it was told and how it ended is not known")
        return {}
    found = _parsed(text(path))
    if not isinstance(found, dict):
        notes.append("its run.json cannot be read: half written, or changed by hand")
        return {}
    status = found.get("status")
    if status != "finished":
        notes.append(f"it is not finished, its status is {status or 'unknown'}")
    return found


def _settings(path: Path, notes: list[str]) -> dict[str, Any]:
    problem = "it has no config.yaml"
    if path.is_file():
        try:
            found = dict(_flat(yaml.CSafeLoader(text(path)).get_single_data()))
            if found:
                return found
            problem = "its config.yaml is empty"
        except (yaml.YAMLError, ValueError, RecursionError):
            problem = "its config.yaml cannot be read: half written, changed by hand, or not of ldm"
    notes.append(f"{problem}, so it is averaged with no other")
    return {}


def _flat(tree: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a config; lists of plain values are values."""
    waiting, count = [("", tree)], 0
    while waiting:
        key, value = waiting.pop()
        count += 1
        if count > _SETTINGS:
            raise ValueError(f"more than {_SETTINGS} settings")
        if isinstance(value, dict) and value:
            below = [(f"{key}.{name}" if key else str(name), each) for name, each in value.items()]
            waiting += reversed(below)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            waiting += reversed([(f"{key}.{i}", each) for i, each in enumerate(value)])
        elif key:
            plain = value is None or isinstance(value, str | int | float)
            yield key, value if plain else str(value)[:1000]


def _records(path: Path, notes: list[str]) -> list[Record]:
    found, wrong = [], Counter[str]()
    for line in text(path).splitlines() if path.is_file() else []:
        if not line.strip():
            continue
        fields = _parsed(line)
        if fields is None:
            wrong["torn"] += 1
            continue
        try:
            found.append(_RECORD.validate_python(fields))
        except ValidationError as error:
            first = error.errors()[0]
            wrong[f"of another version, or changed by hand ({'.'.join(map(str, first['loc']))}: {first['msg']})"] += 1
    notes += [f"{number(count, 'line')} of its records.jsonl left out: {why}" for why, count in wrong.items()]
    return found


def _true(records: Sequence[Record], seed: Any, notes: list[str]) -> list[Record]:
    """Without those that cannot have been measured."""
    found = []
    for record in records:
        why = _impossible(record, seed)
        if why:
            notes.append(f"its {record.metric} is left out: {why}")
        else:
            found.append(record)
    return _said_once(found, notes)


def _impossible(record: Record, seed: Any) -> str:
    if not math.isfinite(record.value):
        return f"it is {record.value}"
    if record.standard_error is not None and not record.standard_error >= 0:
        return f"a standard error of {record.standard_error} cannot have been measured (changed by hand?)"
    if record.n is not None and record.n < 1:
        return f"n = {record.n} cannot be (changed by hand?)"
    low, high = quantity(record.metric).bounds or (-math.inf, math.inf)
    if not low <= record.value <= high:
        return f"{record.value:g} is not between {low:g} and {high:g} (changed by hand?)"
    if None not in (record.seed, seed) and record.seed != seed:
        return f"it says seed {record.seed}, the config seed {seed} (changed by hand, or copied from another run?)"
    return ""


def _said_once(records: Sequence[Record], notes: list[str]) -> list[Record]:
    """Without two values of one measuring, of which one at least was changed."""
    values: dict[tuple, set[float]] = {}
    for record in records:
        values.setdefault(_measuring(record), set()).add(record.value)
    twice = {key for key, found in values.items() if len(found) > 1 and key[-1] is not None}
    notes += [f"its {key[0]} is left out: one measuring has two values, so one was changed by hand" for key in twice]
    return [record for record in records if _measuring(record) not in twice]


def _measuring(record: Record) -> tuple:
    return (*same(record), record.model, record.asked, record.date)


def same(record: Record) -> tuple:
    """What a number is of: two records with the same are one number, measured again."""
    agree = tuple(_hashable(getattr(record, name)) for name in MUST_AGREE)
    return (*agree, record.weights, _hashable(record.drawn), record.config)


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _newest(records: Sequence[Record]) -> list[Record]:
    """The newest of each number, of the weights that the run has now."""
    newest: dict[tuple, Record] = {}
    for record in records:
        newest.pop(same(record), None)
        newest[same(record)] = record
    return current([*newest.values()])
