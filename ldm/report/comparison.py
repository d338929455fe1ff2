"""Settings against each other: one row a setting and way of sampling, one column a number that was measured in one way.

Two numbers stand in one column only where `MUST_AGREE` holds between their records, and those of a clock only where they are of
one device; what differs makes a column of its own, and `apart` says so in words. A row whose runs were measured with several
samplers, guidances or averages of weights is one row for each.

The best of a column is marked where its difference from every other row is told (ldm.report.statistic). Of settings that do not
differ this happens falsely in at most 5 % of columns: the best one has to be told from all others at once.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ldm.report.quantity import CHANNELS, PARTS, Better, Origin, Quantity, quantity
from ldm.report.reading import Run
from ldm.report.setting import Setting
from ldm.report.statistic import Difference, Number, Summary, difference, summary
from ldm.report.words import listed
from ldm.run.record import MUST_AGREE, Record

_KNOWN_OF_RUN = {"parameters": "parameters", "evaluations": "network_evaluations"}  # fields of records, as metrics


class Mark(enum.Enum):
    """What can be said of a row in a column."""

    BEST = "best"
    TIED = "not told from the best"
    PLAIN = ""


@dataclass(frozen=True)
class Column:
    """A number that was measured in one way.

    Fields:
        metric: its name in records.
        agreed: what had to agree, by field.
    """

    metric: str
    agreed: Mapping[str, Any]

    @property
    def quantity(self) -> Quantity:
        """What is known of numbers of its name."""
        return quantity(self.metric)

    @property
    def n(self) -> int | None:
        """Of how many images its numbers are."""
        return self.agreed.get("n")


@dataclass(frozen=True)
class Row:
    """A setting, sampled in one way.

    Fields:
        label: what it is called.
        setting: whose runs it has.
        numbers: of each column (by its place), each run's number by what it is paired by, and the run.
    """

    label: str
    setting: Setting
    numbers: Mapping[int, Mapping[Hashable, tuple[Number, Run]]]

    def of(self, column: int) -> dict[Hashable, Number]:
        """Numbers of a column by seed."""
        return {key: found for key, (found, _) in self.numbers.get(column, {}).items()}

    def summary(self, column: int) -> Summary | None:
        """The mean over seeds; None where there is nothing."""
        own = self.of(column)
        return summary([*own.values()]) if own else None


@dataclass(frozen=True)
class Comparison:
    """All rows and columns.

    Fields:
        rows, columns: in the order of the page.
        notes: runs of one setting and seed of which only the newest counts, in words.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    notes: Sequence[str]

    def ordered(self, rows: Sequence[int], columns: Sequence[int]) -> Comparison:
        """The same with the rows and columns of these places, in this order."""
        place = {old: new for new, old in enumerate(columns)}
        chosen = [self.rows[i] for i in rows]
        moved = [replace(row, numbers={place[i]: each for i, each in row.numbers.items()}) for row in chosen]
        return Comparison(moved, [self.columns[i] for i in columns], self.notes)

    def difference(self, column: int, a: int, b: int) -> Difference | None:
        """Row a - row b; None where one of them has no number there."""
        one, other = self.rows[a].of(column), self.rows[b].of(column)
        if not one or not other:
            return None
        return difference(one, other, self.columns[column].quantity.origin is Origin.COUNTED)

    def best(self, column: int) -> int | None:
        """The row with the best mean; None where it is not known which way is better, or nothing is there."""
        means = {i: each.mean for i, row in enumerate(self.rows) if (each := row.summary(column))}
        sign = self.columns[column].quantity.better.value
        return max(means, key=lambda i: sign * means[i]) if sign and len(means) > 1 else None

    @cached_property
    def marks(self) -> Sequence[Mapping[int, Mark]]:
        """Of each column, the mark of each row that has a number there."""
        return [self._marked(column) for column in range(len(self.columns))]

    def _marked(self, column: int) -> dict[int, Mark]:
        there = [i for i, row in enumerate(self.rows) if row.numbers.get(column)]
        best = self.best(column)
        if best is None:
            return dict.fromkeys(there, Mark.PLAIN)
        told = {i: i != best and self.difference(column, best, i).told for i in there}
        alone = all(told[i] for i in there if i != best)
        first = Mark.BEST if alone else Mark.TIED
        return {i: first if i == best else Mark.PLAIN if told[i] else Mark.TIED for i in there}


def compare(settings: Sequence[Setting]) -> Comparison:
    """Rows and columns of settings."""
    columns: dict[tuple, tuple[Column, int]] = {}
    rows: list[Row] = []
    notes: list[str] = []
    for setting in settings:
        ways = _ways(setting)
        for way, word in ways.items():
            numbers: dict[tuple, dict[Hashable, tuple[Number, Run, str]]] = {}
            for paired_by, run in setting.runs:
                for metric, agreed, number, date in _numbers(run, way):
                    key = (metric, json.dumps(agreed, sort_keys=True, default=str))
                    columns.setdefault(key, (Column(metric, agreed), len(columns)))
                    _put(numbers.setdefault(key, {}), paired_by, (number, run, date), setting.label, notes)
            label = f"{setting.label} · {word}" if word else setting.label
            rows.append(
                Row(
                    label,
                    setting,
                    {columns[k][1]: {p: (x, run) for p, (x, run, _) in by.items()} for k, by in numbers.items()},
                )
            )
    found = Comparison(rows, [column for column, _ in columns.values()], [*dict.fromkeys(notes)])
    by_part = sorted(range(len(columns)), key=lambda i: PARTS.index(found.columns[i].quantity.part))
    return found.ordered(range(len(rows)), by_part)


def _put(numbers: dict, paired_by: Hashable, found: tuple[Number, Run, str], label: str, notes: list[str]) -> None:
    """The newest number of a setting and seed counts; another run of the same is told."""
    before = numbers.get(paired_by)
    if before is not None:
        old, new = sorted((before, found), key=lambda each: each[2])
        notes.append(
            f"{label}: {old[1].name} and {new[1].name} are of one setting and seed; the newer, {new[1].name}, counts"
        )
        found = new
    numbers[paired_by] = found


def _numbers(run: Run, way: str) -> list[tuple[str, dict[str, Any], Number, str]]:
    """(metric, what has to agree, number, date) of what a run measured in one way, and of what it cost."""
    own = [record for record in run.records if _fits(record, way)]
    found = []
    for record in own:
        agreed = {name: getattr(record, name) for name in MUST_AGREE if name != "metric"}
        if quantity(record.metric).origin is Origin.CLOCKED:
            agreed |= {"device": record.device}
        error = 0.0 if quantity(record.metric).origin is not Origin.SAMPLED else record.standard_error
        found.append((record.metric, agreed, Number(record.value, error), record.date or ""))
    measured = {record.metric for record in own}
    for name, metric in _KNOWN_OF_RUN.items():
        value = next((v for record in own if (v := getattr(record, name)) is not None), None)
        if value is not None and metric not in measured:
            found.append((metric, {}, Number(float(value), 0.0), ""))
    seconds = run.facts.get("seconds")
    total = seconds.get("total") if isinstance(seconds, dict) else None
    if isinstance(total, int | float) and total > 0 and "training_seconds" not in measured:
        found.append(("training_seconds", {"device": run.facts.get("device")}, Number(float(total), 0.0), ""))
    return found


# Ways of sampling


def _way(record: Record) -> str:
    """How samples were drawn and which weights were measured, as one word."""
    return json.dumps({"weights": record.weights, **(record.drawn or {})}, sort_keys=True, default=str)


def _fits(record: Record, way: str) -> bool:
    """Whether a number is of a way of sampling: one that needs no samples is of all with its weights."""
    if record.drawn is None:
        return not way or record.weights in (None, json.loads(way)["weights"])
    return _way(record) == way


def _ways(setting: Setting) -> dict[str, str]:
    """The ways in which runs of a setting were measured, each with what is its own of it in words; one that is alone has none."""
    records = [record for _, run in setting.runs for record in run.records]
    ways = dict.fromkeys(map(_way, [record for record in records if record.drawn is not None] or records))
    told = {way: json.loads(way) for way in ways}
    names = dict.fromkeys(name for own in told.values() for name in own)
    differ = [name for name in names if len({str(own.get(name)) for own in told.values()}) > 1]
    words = {way: [f"{name} {own[name]}" for name in differ if own.get(name) is not None] for way, own in told.items()}
    return {way: " · ".join(said) for way, said in words.items()} or {"": ""}


# What is not compared


def apart(comparison: Comparison) -> list[str]:
    """Why numbers of one name stand in several columns, a sentence for each name."""
    found: list[str] = []
    by_name: dict[str, list[int]] = {}
    for i, column in enumerate(comparison.columns):
        by_name.setdefault(column.metric, []).append(i)
    for metric, places in by_name.items():
        if len(places) > 1:
            agreed = [comparison.columns[i].agreed for i in places]
            fields = [name for name in agreed[0] if len({str(each.get(name)) for each in agreed}) > 1]
            said = [
                f"{', '.join(f'{_FIELDS.get(name, name)} {_shown(comparison.columns[i].agreed.get(name))}' for name in fields)} "
                f"in {listed([row.label for row in comparison.rows if i in row.numbers])}"
                for i in places
            ]
            found.append(
                f"{quantity(metric).title} was not measured alike, and is compared within each column only: {'; '.join(said)}."
            )
    return found


_FIELDS = {
    "reference_hash": "real images",
    "features_hash": "weights of the feature network",
    "paired": "paired with real ones",
}


def _shown(value: Any) -> str:
    return (
        "not said"
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)[:24]
    )


def unknown(comparison: Comparison) -> list[str]:
    """Titles of the columns of which it is not known which way is better."""
    open_ = (column.quantity for column in comparison.columns if column.quantity.better is Better.UNKNOWN)
    titles = (each.title for each in open_ if each.part != CHANNELS)
    return [*dict.fromkeys(titles)]
