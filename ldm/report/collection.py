"""Which runs a report is of: from the words of a command line to runs that were read, and what was left out and why."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.report.reading import NoRun, Run, read
from ldm.report.search import Search, search_in


@dataclass(frozen=True)
class Collection:
    """Runs of a report.

    Fields:
        runs: in the order in which they were named.
        left_out: names of others, and why.
        searches: of sweeps that were named, what they have found.
    """

    runs: Sequence[Run]
    left_out: Sequence[tuple[str, str]]
    searches: Sequence[Search] = ()


def collect(words: Iterable[str]) -> Collection:
    """The runs that paths and patterns name, once each. A folder that is no run stands for the runs in it, as a sweep's does."""
    left_out: list[tuple[str, str]] = []
    places: dict[Path, Path] = {}
    searches: list[Search] = []
    for word in words:
        matching = sorted(glob.glob(word)) if glob.has_magic(word) and not os.path.exists(word) else [word]
        if not matching:
            left_out.append((word, "nothing is there by this pattern"))
        for path in map(Path, matching):
            if path.is_file():
                left_out.append((str(path), "this is a file, and a run is a directory"))
                continue
            searches += filter(None, [search_in(path)])
            for run in _runs(path):
                if run.resolve() in places:
                    left_out.append((str(run), "it was named twice, and is counted once"))
                places.setdefault(run.resolve(), run)
    names = _names([*places.values()])
    runs: list[Run] = []
    for path in places.values():
        try:
            run = read(path, names[path])
        except NoRun as error:
            left_out.append((names[path], str(error)))
            continue
        copy_of = next((each for each in runs if _is_copy(each, run)), None)
        if copy_of is None:
            runs.append(run)
        else:
            left_out.append(
                (run.name, f"it has the records of {copy_of.name}, weights and dates included: a copy of it")
            )
    return Collection(runs, left_out, searches)


def _runs(path: Path) -> list[Path]:
    """A run itself, or of a folder of runs each of them."""
    if not path.is_dir() or _is_run(path):
        return [path]
    try:
        return [each for each in sorted(path.iterdir()) if each.is_dir() and _is_run(each)] or [path]
    except OSError:
        return [path]


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("run.json", "config.yaml"))


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """The last parts of paths, as many as tell them apart."""
    depth, names = 1, {path: path.resolve().name for path in paths}
    while len(set(names.values())) < len(names) and depth < 8:
        depth += 1
        clash = {name for name in names.values() if [*names.values()].count(name) > 1}
        names = {p: "/".join(p.resolve().parts[-depth:]) if name in clash else name for p, name in names.items()}
    return names


def _is_copy(one: Run, other: Run) -> bool:
    """Whether all numbers of two runs came about at the same second from the same weights."""
    own, others = ({(r.metric, r.model, r.date, r.value) for r in run.records if r.model} for run in (one, other))
    return bool(own) and own == others
