"""Many runs against each other: what a report of them says, in whatever form it is written (ldm.report.written)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ldm.nearest import nearest
from ldm.report import numbers, verdict
from ldm.report.collection import Collection
from ldm.report.comparison import Comparison, apart, compare, unknown
from ldm.report.quantity import PARTS
from ldm.report.setting import Setting, settings
from ldm.report.table import Table
from ldm.report.words import number

LEGEND = (
    "Means over training seeds. ± sampling is the error of one run's number, of finitely many images; ± seeds is the deviation "
    "between trainings. Bold: better than every other row by a 95 % interval of differences between runs of one seed. "
    "†: not told from the best."
)
"""What stands below the tables."""


@dataclass(frozen=True)
class Several:
    """What is known of runs against each other.

    Fields:
        collection: the runs, and what was left out.
        settings: runs that are averaged.
        comparison: their numbers, the headline's column first, and the best rows by it.
        headline: the place of the column by which rows are ordered; None where there is none.
        pair: places of two rows that are compared with each other.
    """

    collection: Collection
    settings: Sequence[Setting]
    comparison: Comparison
    headline: int | None
    pair: tuple[int, int] | None

    @property
    def title(self) -> str:
        """How many runs and settings there are."""
        return f"{number(len(self.collection.runs), 'run')}, {number(len(self.settings), 'setting')}"

    @cached_property
    def tables(self) -> dict[str, Table]:
        """A table for each part of which there are numbers."""
        found = {part: numbers.of_part(self.comparison, part) for part in PARTS}
        return {part: table for part, table in found.items() if table.rows}

    @cached_property
    def verdicts(self) -> list[str]:
        """The sentences of all columns, that of the headline first."""
        places = range(len(self.comparison.columns))
        return [line for i in places if (line := verdict.of_column(self.comparison, i))]

    @cached_property
    def pair_verdicts(self) -> list[str]:
        """Of the two rows that are compared: what follows from all numbers, and a sentence of each."""
        if self.pair is None:
            return []
        own = [verdict.of_pair(self.comparison, i, *self.pair) for i in range(len(self.comparison.columns))]
        return [verdict.overall(self.comparison, *self.pair), *filter(None, own)]

    @cached_property
    def remarks(self) -> list[str]:
        """What was left out or not compared, and why."""
        found = [*apart(self.comparison), *self.comparison.notes, *verdict.unpaired(self.comparison)]
        open_ = unknown(self.comparison)
        if open_:
            found.append(f"It is not known which way these are better, so none is marked: {', '.join(open_)}.")
        found += [f"{run.name}: {note}." for run in self.collection.runs for note in run.notes]
        return found + [f"{name} is left out: {why}." for name, why in self.collection.left_out]


def several(collection: Collection, by: Sequence[str] = (), pair: Sequence[str] = ()) -> Several:
    """Runs against each other.

    Arguments:
        by: keys of configs whose values make settings; empty for all that differ but seeds.
        pair: two rows to compare, by their labels or by the name of a run in each; of two rows in all, these.

    Raises ValueError where a key or a name is not there.
    """
    groups = settings(collection.runs, by)
    found = compare(groups)
    place = numbers.headline(found, collection.runs)
    found = found if place is None else _headed(found, place)
    chosen = None
    if pair:
        chosen = (_row(found, pair[0]), _row(found, pair[1]))
        if chosen[0] == chosen[1]:
            one = found.rows[chosen[0]].label
            raise ValueError(f"compare={','.join(pair)}: both are the setting {one}, and two are compared")
    elif len(found.rows) == 2:
        chosen = (0, 1)
    return Several(collection, groups, found, None if place is None else 0, chosen)


def _headed(comparison: Comparison, place: int) -> Comparison:
    """With this column first, and the best rows by it."""
    sign = comparison.columns[place].quantity.better.value
    means = [(own.mean if (own := row.summary(place)) else None) for row in comparison.rows]
    rows = sorted(range(len(means)), key=lambda i: (means[i] is None, 0.0 if means[i] is None else -sign * means[i]))
    return comparison.ordered(rows, sorted(range(len(comparison.columns)), key=lambda i: i != place))


def _row(comparison: Comparison, name: str) -> int:
    labels = [row.label for row in comparison.rows]
    if name in labels:
        return labels.index(name)
    having = [i for i, row in enumerate(comparison.rows) if name in [run.name for _, run in row.setting.runs]]
    if not having:
        runs = [run.name for row in comparison.rows for _, run in row.setting.runs]
        raise ValueError(
            f"compare={name}: no setting and no run has this name{nearest(name, dict.fromkeys([*labels, *runs]))}"
        )
    return having[0]
