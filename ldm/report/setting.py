"""Which runs are one setting: those that differ in nothing but seeds, names and places. And what settings are called.

The settings of a run are the dotted keys of its config. A key without a value is as one that is not there, so that runs of an
older version, which had fewer keys, are not others for it. Nor is a path that says the run's own seed another value: each
seed of a sweep may begin from its own run, as `prior.checkpoint=runs/diffusion/seed-2` for seed 2. What a run is called,
where it lies, what it watches and how it is measured make no other setting: what has to agree of a measuring is in its
records.

A setting is named by as few of the differing keys as tell all of them apart: what was named by a person first (`experiment`),
then classes of parts, then values, of each kind the one that splits most, as long as it splits further. Where that is what ends a
stage, it is named by its budget if it has one, for its steps are then the unit of its schedule alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldm.nearest import nearest
from ldm.report.reading import Run

_ASIDE = ("name", "runs", "store", "keep", "rank_timeout", "objective", "plugins", "experiment")
_ASIDE_BELOW = ("logger", "callback", "metric", "evaluation", "data.val")
_ASIDE_OF_DATA = ("root", "workers", "cache")
_WATCHING = (
    *("log_every", "validate_every", "validate_images", "picture_every", "save_every", "snapshots", "patience"),
    *("accumulate", "compile", "again", "returns", "keep_best"),
)
_TARGET = "_target_"


@dataclass(frozen=True)
class Setting:
    """Runs that are averaged.

    Fields:
        label: what it is called.
        values: of the keys that make settings differ.
        runs: each with what it is paired by: seeds, and whatever else differs within a setting.
    """

    label: str
    values: Mapping[str, Any]
    runs: Sequence[tuple[Hashable, Run]]


def is_seed(key: str) -> bool:
    """Whether a key says which random numbers are drawn."""
    return key.rpartition(".")[2] == "seed"


def is_aside(key: str) -> bool:
    """Whether a key says nothing of what was trained."""
    part, _, last = key.partition(".")
    return (
        key in _ASIDE
        or any(key == each or key.startswith(f"{each}.") for each in _ASIDE_BELOW)
        or (part == "data" and key.rpartition(".")[2] in _ASIDE_OF_DATA)
        or (part in ("first", "second") and last in _WATCHING)
        or (part == "trainer" and last != "precision")
    )


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys in which configs differ, in the order of the configs; of runs without a config nothing is known."""
    known = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in known for key in run.settings)
    return [key for key in keys if len({_of(run, key) for run in known}) > 1]


def settings(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Setting]:
    """Runs grouped by all that differs but seeds, or by the keys in `by` and what is below them.

    Raises ValueError where no run has a key of `by`.
    """
    keys = [key for key in differing(runs) if not is_aside(key)]
    chosen = [key for key in keys if not is_seed(key)] if not by else _chosen(runs, keys, by)
    rest = [key for key in keys if key not in chosen]
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run, chosen), []).append(run)
    if not by:
        groups = {key: each for group in groups.values() for key, each in _by_history(group).items()}
    rest = [key for key in rest if is_seed(key) or any(_varies(key, group) for group in groups.values())]
    names = [key for key in differing(runs) if key == "experiment"] if not by else []
    called = _labels([group[0] for group in groups.values()], [*names, *chosen])
    return [
        Setting(
            label,
            {key: group[0].settings.get(key) for key in chosen},
            [(tuple(_of(run, key) for key in rest), run) for run in group],
        )
        for label, group in zip(called, groups.values(), strict=True)
    ]


def _varies(key: str, runs: Sequence[Run]) -> bool:
    """Whether a key differs within a setting; one that differs between settings alone says nothing of pairs."""
    return len({_of(run, key) for run in runs}) > 1


def _key(run: Run, keys: Sequence[str]) -> Hashable:
    return tuple(_of(run, key) for key in keys) if run.settings else run.path


def _by_history(runs: Sequence[Run]) -> dict[Hashable, list[Run]]:
    """Runs of equal configs by the history of their training: numbers of two are not averaged, though the configs agree now. Runs
    that each began from one of their own seed are told apart by nothing."""
    known = [next((record.config for record in run.records if record.config), None) for run in runs]
    usual = next((each for each in known if each), None)
    found: dict[Hashable, list[Run]] = {}
    for run, history in zip(runs, known, strict=True):
        found.setdefault((runs[0].path, (None if _from_own_seed(run) else history) or usual), []).append(run)
    return found


def _chosen(runs: Sequence[Run], keys: Sequence[str], by: Sequence[str]) -> list[str]:
    every = {key for run in runs for key in run.settings}
    parts = {".".join(key.split(".")[:i]) for key in every for i in range(1, key.count(".") + 2)}
    for word in by:
        if word not in parts:
            differ = dict.fromkeys([*(key.partition(".")[0] for key in keys), *keys])
            hint = nearest(word, differ, "These differ:") if differ else ", and these runs differ in none"
            raise ValueError(f"by={word}: no run has such a setting{hint}")
    below = [key for key in differing(runs) if any(key == word or key.startswith(f"{word}.") for word in by)]
    return sorted(below, key=lambda key: next(i for i, word in enumerate(by) if f"{key}.".startswith(f"{word}.")))


def _has_seed(run: Run) -> re.Pattern[str]:
    """Where a text says the seed of a run, as `seed-2` or `seed=2`."""
    return re.compile(rf"(?<![A-Za-z0-9])seed[-=_]?{run.settings.get('seed')}(?![0-9.])")


def _from_own_seed(run: Run) -> bool:
    """Whether something that a run is made of lies at a place that says its seed."""
    told = [value for key, value in run.settings.items() if isinstance(value, str) and not is_aside(key)]
    return any(map(_has_seed(run).search, told))


def _of(run: Run, key: str) -> Hashable:
    """A setting of a run, whatever its seed."""
    value = run.settings.get(key)
    return _has_seed(run).sub("seed", value) if isinstance(value, str) else _value(value)


def _value(value: Any) -> Hashable:
    """Numbers that are equal are one value, however they were written; True is not 1."""
    if isinstance(value, bool):
        return str(value)
    return float(value) if isinstance(value, int | float) else value


def _labels(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """A name for each, from as few keys as tell them apart; where none does, the name of the run beside it."""
    if len(runs) == 1:
        return [str(runs[0].facts.get("experiment") or runs[0].settings.get("experiment") or runs[0].name)]
    taken: list[str] = []
    for tier in (["experiment"], [key for key in keys if key.endswith(_TARGET)], list(keys)):
        left = sorted((key for key in tier if key in keys), key=lambda key: key.count("."))
        while left:
            best = max(left, key=lambda key: _told(runs, [*taken, key]))  # the first of equals
            if _told(runs, [*taken, best]) == _told(runs, taken):
                break
            taken.append(best)
    names = [_name(run, runs, taken) for run in runs]
    return [
        name if name and names.count(name) == 1 else f"{name} ({run.name})" if name else run.name
        for name, run in zip(names, runs, strict=True)
    ]


def _name(run: Run, runs: Sequence[Run], taken: Sequence[str]) -> str:
    """The words that a run needs to be told from the others, of those chosen."""
    words, alike = [], list(runs)
    for key in taken:
        left = [each for each in alike if _of(each, key) == _of(run, key)]
        if len(left) < len(alike):
            words.append(_word(_ending(key, run), run, taken))
            alike = left
    return " · ".join(dict.fromkeys(filter(None, words)))


def _ending(key: str, run: Run) -> str:
    """The key by which a run's stage ends, of a key that may end one; any other as it is."""
    stage, _, below = key.partition(".")
    if stage not in ("first", "second") or not (below == "steps" or below.startswith("budget.")):
        return key
    budgets = [each for each in run.settings if each.startswith(f"{stage}.budget.") and not each.endswith(_TARGET)]
    return next((each for each in budgets if run.settings[each] is not None), f"{stage}.steps")


def _told(runs: Sequence[Run], keys: Sequence[str]) -> int:
    return len({tuple(_of(run, key) for key in keys) for run in runs})


def _word(key: str, run: Run, taken: Sequence[str]) -> str:
    """One setting of a run as a word of a label: a class by its name, a value with the last part of its key."""
    value = run.settings.get(key)
    if value is None:
        return ""
    if key == "experiment" or key.endswith(_TARGET):
        return plain(value)
    last = key.rpartition(".")[2]
    alone = {each for each in taken if each.rpartition(".")[2] == last} <= {key}
    return f"{last if alone else key}={plain(value)}"


def plain(value: Any) -> str:
    """A value as it is shown: of a class its name, of a path its last part."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        said = str(value)
        if said.startswith("/"):
            return said.rpartition("/")[2]
        return said.rpartition(".")[2] if said.startswith(("ldm.", "torch.")) else said
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
