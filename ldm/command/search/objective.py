"""What a search is by: the records that `objective=` names, and which way each is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ldm.build import build
from ldm.command.search.study import Goal
from ldm.nearest import nearest
from ldm.report.quantity import Better, quantity

_WAYS = {"minimize": True, "maximize": False}


def goal(objective: str | list[str] | None, directions: str | Sequence[str] | None) -> Goal:
    """The goal of a search; ValueError where it is not known.

    Arguments:
        objective: names of records.
        directions: `minimize` or `maximize` of each; None takes what is known of its name.
    """
    names = [objective] if isinstance(objective, str) else list(objective or [])
    if not names:
        raise ValueError(
            "hydra/sweeper=optuna searches by a number of the records: say objective=NAME, as objective=psnr"
        )
    if directions is None:
        return Goal(names, [_lower(name) for name in names])
    said = [directions] if isinstance(directions, str) else list(directions)
    wrong = [way for way in said if way not in _WAYS]
    if wrong:
        raise ValueError(f"hydra.sweeper.direction={wrong[0]}: say minimize or maximize")
    if len(said) != len(names):
        raise ValueError(f"hydra.sweeper.direction={said}: {len(names)} are needed, one for each of objective={names}")
    return Goal(names, [_WAYS[way] for way in said])


def unmeasured(names: Iterable[str], metric: Mapping[str, Any] | None) -> str | None:
    """What to say of the first of the names that nothing which is measured has, if there is one.

    Arguments:
        metric: the metrics of a config.
    """
    patterns = [pattern for each in build(dict(metric or {}), "metric").values() for pattern in each.names]
    for name in names:
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            return f"objective={name}: nothing that is measured has this name{nearest(name, patterns)}. Say metric= what does"
    return None


def _lower(name: str) -> bool:
    better = quantity(name).better
    if better is Better.UNKNOWN:
        raise ValueError(
            f"objective={name}: of no number of this name is it known which way it is better; take one as fd_NETWORK or psnr "
            "(docs/metrics.md has them all), or say hydra.sweeper.direction=minimize or maximize"
        )
    return better is Better.LOWER
