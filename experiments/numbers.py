"""Numbers of runs for a study's own table: read from records, averaged over seeds, and judged as `ldm report` judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ldm.report.collection import collect
from ldm.report.quantity import Better, Origin, quantity
from ldm.report.reading import Run
from ldm.report.statistic import Number, difference, summary
from ldm.report.words import count, rounded
from ldm.run.record import Record, comparable

Numbers = Mapping[int, Number]
"""By seed."""


def runs_of(folder: Path) -> Sequence[Run]:
    """The finished runs of a sweep; none where it was not made."""
    found = collect([str(folder)]).runs if folder.is_dir() else ()
    return [run for run in found if run.status == "finished"]


def own_way(run: Run, record: Record) -> bool:
    """Whether a number is of samples drawn as the run itself draws them, or of none."""
    ways = [each.drawn for each in run.records if each.drawn is not None]
    return record.drawn is None or record.drawn == ways[0]


def newest(runs: Sequence[Run], metric: str, steps: int | None = None) -> Mapping[int, Record]:
    """The newest record of a metric by seed, of samples drawn as each run draws them or, where given, in so many steps."""
    found: dict[int, Record] = {}
    for run in runs:
        for record in run.records:
            way = own_way(run, record) if steps is None else (record.drawn or {}).get("steps") == steps
            if record.metric == metric and way and record.seed is not None:
                found[record.seed] = record
    return found


def numbers(runs: Sequence[Run], metric: str, steps: int | None = None) -> Numbers:
    """The values of `newest`."""
    return {seed: Number(each.value, each.standard_error) for seed, each in newest(runs, metric, steps).items()}


def apart(columns: Iterable[Sequence[Run]], metric: str) -> list[str]:
    """In what the records of a metric differ that must agree before they are compared (ldm.run.record)."""
    found = [record for runs in columns for record in newest(runs, metric).values()]
    return sorted({field for record in found for field in comparable(found[0], record)})


def cell(own: Numbers, metric: str) -> str:
    """Mean over seeds ± their deviation; of one seed ± its own sampling error, in brackets."""
    if not own:
        return "not run"
    found = summary([*own.values()])
    if quantity(metric).origin is not Origin.SAMPLED:
        return count(found.mean)
    error = found.deviation if found.seeds > 1 else found.error
    mean, said = rounded(found.mean, error if error and error > 1e-4 * abs(found.mean) else None)
    if not said:
        return mean
    return f"{mean} ± {said}" if found.seeds > 1 else f"{mean} (± {said})"


def judged(columns: Mapping[str, Numbers], metric: str) -> str:
    """Which of the columns is best, where it is told from every other one; else those that are not told from it."""
    means = {name: summary([*own.values()]).mean for name, own in columns.items() if own}
    sign = quantity(metric).better
    if len(means) < 2 or sign is Better.UNKNOWN:
        return ""
    best = max(means, key=lambda name: sign.value * means[name])
    counted = quantity(metric).origin is Origin.COUNTED
    near = [
        name
        for name in means
        if name != best and not difference(columns[best], columns[name], counted).told  # by seed
    ]
    return best if not near else f"{best}, not told from {' and '.join(near)}"


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*titles: str) -> str:
    """The first two lines of one."""
    return f"{line(*titles)}\n{'| --- ' * len(titles)}|"
