"""What a search has found: the best trial with its words, how the best came about, and how much each range matters.

The facts are a file in the sweep's directory, which may be a stranger's: what of it cannot be read is left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ldm.report.chart import Line, bar_chart, line_chart
from ldm.report.quantity import quantity
from ldm.report.reading import text
from ldm.report.words import number, short

FILE = "search.json"


@dataclass(frozen=True)
class Aim:
    """A number that is searched by."""

    name: str
    direction: Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Tried:
    """A trial: `complete`, `pruned`, `fail`, `running` or `waiting`; its values, what it chose and its runs."""

    number: int
    state: str
    values: Sequence[float] | None
    chosen: Mapping[str, float | str]
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """A best trial and a command that trains it."""

    number: int
    command: str


@dataclass(frozen=True)
class Search:
    """The facts of a search; of each aim the `importances` are shares by range."""

    goal: Sequence[Aim]
    trials: Sequence[Tried]
    importances: Sequence[Mapping[str, float]] = ()
    best: Sequence[Found] = field(default=())

    @property
    def sentences(self) -> list[str]:
        """How many trials there were, and the best."""
        states = Counter(trial.state for trial in self.trials)
        said = ", ".join(f"{count} {_STATES.get(state, state)}" for state, count in states.items())
        lines = [f"{number(len(self.trials), 'trial')} by {', '.join(aim.name for aim in self.goal)}: {said}."]
        known = {trial.number: trial for trial in self.trials}
        for each in self.best:
            trial = known.get(each.number)
            if trial is not None and trial.values:
                values = ", ".join(
                    f"{aim.name} {value:.4g}" for aim, value in zip(self.goal, trial.values, strict=False)
                )
                chosen = ", ".join(f"{key}={_said(value)}" for key, value in trial.chosen.items())
                lines.append(f"Best: trial {each.number + 1} with {values}, {chosen}.")
        return lines

    def html(self) -> str:
        """The sentences, the commands of the best trials, and the charts."""
        items = "".join(f"<li>{escape(line)}</li>" for line in self.sentences)
        commands = "".join(f"<pre>{escape(each.command)}</pre>" for each in self.best)
        charts = "".join([*self._courses(), *self._importances()])
        return f"<ul>{items}</ul>{commands}" + (f'<div class="charts">{charts}</div>' if charts else "")

    def markdown(self) -> str:
        """The same without pictures."""
        lines = [f"- {line}" for line in self.sentences]
        for aim, shares in zip(self.goal, self.importances, strict=False):
            if shares:
                told = ", ".join(f"{key} {share:.2f}" for key, share in _greatest(shares))
                lines.append(f"- Importance for {aim.name}: {told}.")
        commands = "".join(f"\n```sh\n{each.command}\n```\n" for each in self.best)
        return "\n".join(lines) + f"\n{commands}"

    def _courses(self) -> list[str]:
        """Of a single aim the best value so far, over trials."""
        if len(self.goal) != 1:
            return []
        better = min if self.goal[0].direction == "minimize" else max
        points, best = list[tuple[float, float]](), math.nan
        for trial in self.trials:
            if trial.state == "complete" and trial.values and math.isfinite(trial.values[0]):
                best = trial.values[0] if math.isnan(best) else better(best, trial.values[0])
                points.append((float(trial.number + 1), best))
        title = f"{quantity(self.goal[0].name).title}, best so far"
        return [line_chart(title, [Line("best", points, edges=())], "trials")] if points else []

    def _importances(self) -> list[str]:
        return [
            bar_chart(f"Importance for {quantity(aim.name).title}", _greatest(shares))
            for aim, shares in zip(self.goal, self.importances, strict=False)
            if shares
        ]


_STATES = {"fail": "failed", "complete": "finished"}
_READ = TypeAdapter(Search)


def search_in(folder: Path) -> Search | None:
    """The search of a sweep's directory; None where there is none, or none that can be read."""
    try:
        return _READ.validate_python(json.loads(text(folder / FILE)))
    except (OSError, ValueError, ValidationError):
        return None


def _greatest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def _said(value: Any) -> str:
    return short(value, 4) if isinstance(value, float) else str(value)
