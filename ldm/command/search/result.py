"""What a search has found, as a file from which reports are made without Optuna: `search.json` in the sweep's directory."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.command.search.ranges import Space
from ldm.command.search.study import RUNS, Study
from ldm.files import write_json
from ldm.report.search import FILE


def write(study: Study, space: Space, folder: Path, program: Sequence[str]) -> None:
    """Write down all trials, what the ranges matter, and of the best trial the words.

    Arguments:
        program: what is called with a trial's words, as `python train.py`.
    """
    facts = {
        "goal": [
            {"name": name, "direction": way} for name, way in zip(study.goal.names, study.goal.directions, strict=True)
        ],
        "trials": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "values": trial.values,
                "chosen": {_plain(key): value for key, value in trial.params.items()},
                "runs": trial.user_attrs.get(RUNS, []),
            }
            for trial in study.trials
        ],
        "importances": [{_plain(key): value for key, value in each.items()} for each in study.importances()],
        "best": [{"number": trial.number, "command": _command(program, space, trial.params)} for trial in study.best()],
    }
    write_json(folder / FILE, facts)


def _command(program: Sequence[str], space: Space, chosen: dict[str, Any]) -> str:
    """A command that trains this choice, under the first of its seeds."""
    words = space.jobs(chosen)[0] if chosen.keys() == space.ranges.keys() else []
    typed = [_plain(word) for word in words if not word.startswith(("name=", "objective="))]
    return shlex.join([*program, *typed, "name=best"])


def _plain(word: str) -> str:
    """A word as one types it: `++` of a dotted key is added when it is heard."""
    return word.removeprefix("++") if "." in word.partition("=")[0] else word
