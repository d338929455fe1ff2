"""What follows from a comparison, in sentences: of each column which row is best, if that can be told, and of two rows chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ldm.report.comparison import Column, Comparison, Mark
from ldm.report.quantity import Better
from ldm.report.statistic import CLOSE, LEVEL, Basis, Difference
from ldm.report.words import listed, number, rounded

_INTERVAL = f"{LEVEL:.0%} interval"


def of_column(comparison: Comparison, place: int) -> str:
    """One sentence of a column with at least two rows; empty where there are fewer, or no way is better."""
    column, best = comparison.columns[place], comparison.best(place)
    if best is None:
        return ""
    marks = comparison.marks[place]
    name, mean = comparison.rows[best].label, said(comparison, place, best)
    others = [i for i in marks if i != best]
    if marks[best] is Mark.BEST:
        nearest = min(others, key=lambda i: abs(comparison.difference(place, best, i).mean))
        found = comparison.difference(place, nearest, best)
        lead = f"{titled(column)}: {name} is best with {mean}; {comparison.rows[nearest].label}, the nearest, is "
        return f"{lead}{_by(found, column)}."
    tied = [i for i in others if marks[i] is Mark.TIED]
    bases = [comparison.difference(place, best, i).basis for i in tied]
    usual = max(dict.fromkeys(bases), key=bases.count)
    names = listed([comparison.rows[i].label for i, basis in zip(tied, bases, strict=True) if basis is usual], 3)
    rest = "" if bases.count(usual) == len(bases) else f" {_others(comparison, tied, bases, usual)}"
    return f"{titled(column)}: {_NO_BEST[usual].format(name=name, mean=mean, names=names)}{rest}"


_NO_BEST = {
    Basis.PAIRS: f"no best can be told: {{name}} ({{mean}}) and {{names}} differ by no more than their seeds do ({_INTERVAL}).",
    Basis.SINGLE: "no verdict: {name} ({mean}) and {names} are single seeds that are closer than "
    f"{CLOSE:.0%} or their sampling error; more seeds would tell.",
    Basis.NO_ERROR: "no verdict: {name} ({mean}) is the best number, but it and {names} are single seeds, and their error "
    "is not known; more seeds would tell.",
    Basis.NO_PAIR: "no verdict: {name} ({mean}) is the best number, but {names} have no seed in common with it.",
    Basis.COUNTED: "{name} and {names} have the same, {mean}.",
}


def _others(comparison: Comparison, tied: Sequence[int], bases: Sequence[Basis], usual: Basis) -> str:
    """What cannot be told for another reason than most."""
    rest = [(comparison.rows[i].label, basis) for i, basis in zip(tied, bases, strict=True) if basis is not usual]
    return f"Nor can {listed([f'{label} ({basis.value})' for label, basis in rest], 3)} be told from it."


def of_pair(comparison: Comparison, place: int, a: int, b: int) -> str:
    """One sentence of two rows in a column; empty where one of them has no number there."""
    column, found = comparison.columns[place], comparison.difference(place, a, b)
    if found is None:
        return ""
    one, other = comparison.rows[a].label, comparison.rows[b].label
    values = f"{said(comparison, place, a)} and {said(comparison, place, b)}"
    lead = f"{titled(column)}: {values}"
    if found.basis is Basis.NO_PAIR:
        return f"{lead}; no verdict, for {one} and {other} have no seed in common{_unpaired(found)}."
    if found.mean == 0 and found.basis is Basis.COUNTED:
        return f"{lead}; they are the same."
    if not found.told:
        why = {
            Basis.PAIRS: "that can be none",
            Basis.SINGLE: f"no verdict, single seeds are told apart from {CLOSE:.0%} and twice their error on",
            Basis.NO_ERROR: "no verdict, for single seeds without a sampling error tell nothing",
        }[found.basis]
        return f"{lead}; {one} is {_by(found, column)}: {why}{_unpaired(found)}."
    better = column.quantity.better
    word = "" if better is Better.UNKNOWN else ", better" if found.mean * better.value > 0 else ", worse"
    return f"{lead}; {one} is {_by(found, column)}{word}{_unpaired(found)}."


def overall(comparison: Comparison, a: int, b: int) -> str:
    """One sentence of two rows over all columns that say which way is better, but for costs."""
    counts = {"better": 0, "worse": 0, "open": 0}
    for place, column in enumerate(comparison.columns):
        found, sign = comparison.difference(place, a, b), column.quantity.better.value
        if found is not None and sign and column.quantity.part != "Cost":
            counts["open" if not found.told else "better" if found.mean * sign > 0 else "worse"] += 1
    total, one, other = sum(counts.values()), comparison.rows[a].label, comparison.rows[b].label
    if not total:
        return f"{one} and {other} have no number in common of which it is known which way is better."
    chance = f" Of {total} comparisons without a difference {total * (1 - LEVEL):.2g} would be told on average."
    return (
        f"Of {number(total, 'number')} {one} is better than {other} on {counts['better']}, worse on {counts['worse']}, "
        f"and on {counts['open']} no difference can be told.{chance if total > 2 else ''}"
    )


def _by(found: Difference, column: Column) -> str:
    """`lower by 0.52 [0.31, 0.73] (4 %; 3 pairs of seeds)`."""
    half = (found.high - found.low) / 2
    size, _ = rounded(abs(found.mean), half if half > 0 else None)
    word = "lower" if found.mean < 0 else "higher"
    sure = {
        Basis.PAIRS: f"{found.pairs} pairs of seeds",
        Basis.SINGLE: "single seeds",
        Basis.NO_ERROR: "single seeds",
        Basis.COUNTED: "counted",
    }.get(found.basis, "")
    low, high = sorted((found.low * (-1 if found.mean < 0 else 1), found.high * (-1 if found.mean < 0 else 1)))
    between = f" [{rounded(low, half)[0]}, {rounded(high, half)[0]}]" if half > 0 else ""
    return f"{word} by {size}{between} ({found.relative:.1%}; {sure})"


def _unpaired(found: Difference) -> str:
    alone = len(found.only_a) + len(found.only_b)
    return f"; left out: {number(alone, 'run')} whose seed the other has not" if alone else ""


def titled(column: Column) -> str:
    """A column's title with n."""
    return column.quantity.title if column.n is None else f"{column.quantity.title}, n = {column.n:,}"


def said(comparison: Comparison, place: int, row: int) -> str:
    """The mean of a row, `12.3 ± 0.4` with the deviation between seeds or, of a single one, the sampling error."""
    own = comparison.rows[row].summary(place)
    if own is None:
        return ""
    value, error = rounded(own.mean, own.deviation if own.seeds > 1 else own.error)
    return f"{value} ± {error}" if error and error != "0" else value


def unpaired(comparison: Comparison) -> list[str]:
    """Which runs are in no difference between a best row and another, which has no run of their seed; a sentence for each."""
    found: dict[tuple[int, str], dict[str, None]] = {}
    for place in range(len(comparison.columns)):
        best = comparison.best(place)
        for i in comparison.marks[place] if best is not None else ():
            each = comparison.difference(place, best, i) if i != best else None
            if each is not None and each.basis is not Basis.COUNTED:
                for row, other, keys in ((best, i, each.only_a), (i, best, each.only_b)):
                    for key in keys:
                        run = comparison.rows[row].numbers[place][key][1]
                        found.setdefault((row, run.name), {})[comparison.rows[other].label] = None
    return [
        f"{run} ({comparison.rows[row].label}) is left out of differences with {listed([*others])}: no run of its seed is there."
        for (row, run), others in found.items()
    ]


def facts(comparison: Comparison, pair: tuple[int, int] | None = None) -> dict[str, Any]:
    """All of it as plain values for JSON."""
    columns = []
    for place, column in enumerate(comparison.columns):
        best = comparison.best(place)
        rows = [_row(comparison, place, i, best) for i in comparison.marks[place]]
        agreed = {key: value for key, value in column.agreed.items() if value is not None}
        better = column.quantity.better.name.lower()
        columns.append(
            {
                "metric": column.metric,
                "measured": agreed,
                "better": better,
                "verdict": of_column(comparison, place),
                "rows": rows,
            }
        )
    found: dict[str, Any] = {"level": LEVEL, "close": CLOSE, "columns": columns}
    if pair is not None:
        names = [comparison.rows[i].label for i in pair]
        said_ = [sentence for place in range(len(columns)) if (sentence := of_pair(comparison, place, *pair))]
        found["compared"] = {"a": names[0], "b": names[1], "verdict": overall(comparison, *pair), "numbers": said_}
    return found


def _row(comparison: Comparison, place: int, i: int, best: int | None) -> dict[str, Any]:
    row, own = comparison.rows[i], comparison.rows[i].summary(place)
    found: dict[str, Any] = {"setting": row.label, "mark": comparison.marks[place][i].value}
    found |= dataclasses.asdict(own)
    found["runs"] = {run.name: value.value for value, run in row.numbers[place].values()}
    if best is not None and i != best:
        each = comparison.difference(place, i, best)
        numbers = {"mean": each.mean, "low": each.low, "high": each.high, "relative": each.relative}
        plain = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        found["from_best"] = plain | {"pairs": each.pairs, "rests_on": each.basis.value, "told": each.told}
    return found


def lines(comparison: Comparison) -> Sequence[str]:
    """The sentences of all columns."""
    return [line for place in range(len(comparison.columns)) if (line := of_column(comparison, place))]
