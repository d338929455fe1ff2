"""The tables of a comparison: numbers by part, what differs in the configs, and everything a line for CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ldm.report.comparison import Column, Comparison, Mark
from ldm.report.quantity import Origin
from ldm.report.reading import Run
from ldm.report.setting import Setting, differing, is_seed, plain
from ldm.report.statistic import Summary
from ldm.report.table import Cell, Head, Table
from ldm.report.words import rounded, short

_ERRORS = ("mean", "± sampling", "± seeds")
_UNTRAINED = ("random_conv",)  # feature networks of random weights
_LONGEST, _SHORT = 60, 24  # letters of a setting's value in a table; of what is said of a column in its title


def of_part(comparison: Comparison, part: str) -> Table:
    """A row a setting, and of each number of a part its mean over seeds, the sampling error of one run, and the deviation between
    seeds; an error that no row has is left out."""
    places = [i for i, column in enumerate(comparison.columns) if column.quantity.part == part]
    rows = [i for i, row in enumerate(comparison.rows) if any(row.numbers.get(place) for place in places)]
    blocks = [_block(comparison, place, rows) for place in places]
    heads = [Head("Setting", numeric=False), Head("Seeds"), *(head for head, _ in blocks)]
    lead = [[Cell(comparison.rows[i].label), Cell(str(_seeds(comparison, places, i)))] for i in rows]
    return Table(heads, [sum((cells[k] for _, cells in blocks), start) for k, start in enumerate(lead)])


def _seeds(comparison: Comparison, places: Sequence[int], row: int) -> int:
    return max(own.seeds for place in places if (own := comparison.rows[row].summary(place)) is not None)


def _block(comparison: Comparison, place: int, rows: Sequence[int]) -> tuple[Head, list[list[Cell]]]:
    """The heading and the cells of one number."""
    own = {i: comparison.rows[i].summary(place) for i in rows}
    known = [each for each in own.values() if each is not None]
    counted = comparison.columns[place].quantity.origin is Origin.COUNTED or not _has_error(comparison, place)
    there = (
        True,
        not counted and any(each.error for each in known),
        not counted and any(each.seeds > 1 for each in known),
    )
    below = [name for name, shown in zip(_ERRORS, there, strict=True) if shown]
    cells = []
    for i, each in own.items():
        texts = ("", "", "")
        if each is not None:
            texts = (short(each.mean, 4), "", "") if counted else _texts(each)
        mark = comparison.marks[place].get(i)
        first = Cell(texts[0], best=mark is Mark.BEST, tied=mark is Mark.TIED)
        quiet = [Cell(text, quiet=True) for text, shown in zip(texts[1:], there[1:], strict=True) if shown]
        cells.append([first, *quiet])
    return Head(title(comparison, place), below if len(below) > 1 else ()), cells


def _has_error(comparison: Comparison, place: int) -> bool:
    return any(own.error or own.deviation for row in comparison.rows if (own := row.summary(place)) is not None)


def _texts(own: Summary) -> tuple[str, str, str]:
    """Mean and both errors, with the digits of the larger one."""
    scale = max((error for error in (own.error, own.deviation) if error), default=None)
    if scale is None:
        return rounded(own.mean, None)[0], "", "0" if own.deviation == 0 else ""
    digits = max(0, 1 - math.floor(math.log10(scale)))
    told = [
        "" if error is None else f"{error:.{digits}f}" if digits <= 6 else f"{error:.2g}"
        for error in (own.error, own.deviation)
    ]
    return rounded(own.mean, scale)[0], told[0], told[1]


def title(comparison: Comparison, place: int) -> str:
    """A column's title with its n and, where other columns have both, what else is its own."""
    column = comparison.columns[place]
    twins = [each for each in comparison.columns if each.metric == column.metric]
    told = [] if column.n in (None, 1) else [f"{column.n:,}"]
    if sum(each.n == column.n for each in twins) > 1:
        fields = [
            name for name in column.agreed if name != "n" and len({str(each.agreed.get(name)) for each in twins}) > 1
        ]
        own = [str(column.agreed[name]) for name in fields if len(str(column.agreed.get(name) or "x" * 99)) < _SHORT]
        told += own or [f"column {twins.index(column) + 1}"]
    return f"{column.quantity.title} ({', '.join(told)})" if told else column.quantity.title


def every(comparison: Comparison) -> Table:
    """A line for each setting and number, with how it was measured and its difference from the best of its column."""
    fields = list(dict.fromkeys(name for column in comparison.columns for name in column.agreed if name != "n"))
    names = ("setting", "metric", "n", "seeds", "mean", "sampling_error", "seed_deviation", "mark")
    against = ("best", "difference", "low", "high", "pairs", "told", "rests_on", "runs")
    lines = []
    for place, column in enumerate(comparison.columns):
        best = comparison.best(place)
        for i, mark in comparison.marks[place].items():
            row, own = comparison.rows[i], comparison.rows[i].summary(place)
            values = [row.label, column.metric, column.n, own.seeds, own.mean, own.error, own.deviation, mark.value]
            found = None if best is None or i == best else comparison.difference(place, i, best)
            label = "" if best is None else comparison.rows[best].label
            told = [label, *([""] * 6)]
            if found is not None:
                told = [label, found.mean, found.low, found.high, found.pairs, found.told, found.basis.value]
            runs = " ".join(run.name for _, run in row.numbers[place].values())
            lines.append([*map(_text, [*values, *told, runs]), *(_text(column.agreed.get(name)) for name in fields)])
    heads = [Head(name, numeric=False) for name in (*names, *against, *fields)]
    return Table(heads, [[Cell(text) for text in line] for line in lines])


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def differences(comparison: Comparison, place: int) -> Table:
    """Each row of a column against the best one."""
    best = comparison.best(place)
    heads = (
        Head("Setting", numeric=False),
        Head("Difference"),
        Head("Interval"),
        Head("Pairs"),
        Head("Verdict", numeric=False),
    )
    lines = []
    for i, mark in comparison.marks[place].items() if best is not None else ():
        found = comparison.difference(place, i, best) if i != best else None
        label = Cell(comparison.rows[i].label)
        if found is None:
            lines.append([label, Cell(), Cell(), Cell(), Cell(mark.value, best=mark is Mark.BEST)])
            continue
        half = (found.high - found.low) / 2
        value = "" if math.isnan(found.mean) else rounded(found.mean, half if half > 0 else None)[0]
        interval = f"{rounded(found.low, half)[0]} to {rounded(found.high, half)[0]}" if half > 0 else ""
        verdict = "worse" if found.told else f"not told ({found.basis.value})"
        lines.append([label, Cell(value), Cell(interval, quiet=True), Cell(str(found.pairs)), Cell(verdict)])
    return Table(heads, lines)


def configs(settings: Sequence[Setting]) -> Table:
    """What differs in the configs: a line a key, a column a setting, with the values of all its runs."""
    runs = [run for setting in settings for _, run in setting.runs]
    keys = [key for key in differing(runs) if key not in ("name", "runs", "store")]
    heads = [Head("Key", numeric=False), *(Head(setting.label, numeric=False) for setting in settings)]
    return Table(
        heads, [[Cell(key), *(Cell(_values(key, setting)) for setting in settings)] for key in keys], how="config"
    )


def _values(key: str, setting: Setting) -> str:
    found = dict.fromkeys(plain(run.settings.get(key)) for _, run in setting.runs if run.settings)
    text = ", ".join(each or "–" for each in found)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def runs_of(settings: Sequence[Setting]) -> Table:
    """Every run: its setting, seed, how it ended, on what, and what was wrong with it."""
    heads = [Head(name, numeric=False) for name in ("Run", "Setting", "Seed", "Status", "Device", "Code", "Remarks")]
    lines = []
    for setting in settings:
        for _, run in setting.runs:
            seeds = dict.fromkeys(plain(value) for key, value in run.settings.items() if is_seed(key))
            facts = [str(run.facts.get(name) or "") for name in ("device", "code_version")]
            said = [run.name, setting.label, ", ".join(seeds), run.status, *facts, "; ".join(run.notes)]
            lines.append([Cell(text) for text in said])
    return Table(heads, lines, how="runs")


def headline(comparison: Comparison, runs: Sequence[Run]) -> int | None:
    """The column by which rows are ordered and costs are weighed: the first that says which way is better, of those that most
    rows have, not of cost, and not in features that a loss has seen; of an untrained network only where there is no other.
    None where there is none."""
    seen = {name for run in runs for record in run.records for name in record.flat().get("seen") or ()}

    def fits(column: Column) -> bool:
        return (
            column.quantity.part != "Cost"
            and bool(column.quantity.better.value)
            and column.agreed.get("features") not in seen
        )

    places = [i for i, column in enumerate(comparison.columns) if fits(column)]

    def worth(i: int) -> tuple[int, bool]:
        learnt = comparison.columns[i].agreed.get("features") not in _UNTRAINED
        return sum(bool(row.numbers.get(i)) for row in comparison.rows), learnt

    return max(places, key=worth, default=None)
