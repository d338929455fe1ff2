"""A job's trial of a search: it tells the study what evaluations in training measure, and asks whether it is worth going on.

The process that searches says in its environment, which all launchers hand on to their jobs and these to their ranks, where the
study is and how it prunes. Which of the trials a job is follows from its run, so that nothing more has to reach it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from ldm.callback.evaluations import Judge

_SAID = "LDM_SEARCH"


def announce(folder: Path, study: str, objective: str, pruner: Mapping[str, Any] | None) -> None:
    """Let the jobs that this process begins know of its search.

    Arguments:
        folder: of the sweep.
        study: its name.
        objective: the number that trials are pruned by.
        pruner: the node of one; None where none is pruned.
    """
    said = {"folder": str(folder.resolve()), "study": study, "objective": objective, "pruner": pruner}
    os.environ[_SAID] = json.dumps(said)


class Trial:
    """The trial of a run.

    Arguments:
        said: what the search said of itself.
        run: the name of the run, with its sweep's.
    """

    def __init__(self, said: Mapping[str, Any], run: str):
        self._said, self._run = said, run

    def judge(self, every: int) -> Judge:
        """What ends a training that is not worth going on, with evaluations after so many images each."""

        def goes_on(images: int, values: Mapping[str, float]) -> bool:
            return self._goes_on(images // every, values)

        return goes_on

    @property
    def pruned(self) -> bool:
        """Whether it was found not to be worth going on."""
        from optuna.trial import TrialState

        found = self._found(self._study())
        return found is not None and found.state == TrialState.PRUNED

    def _goes_on(self, step: int, values: Mapping[str, float]) -> bool:
        from optuna.trial import Trial, TrialState

        study, objective = self._study(), self._said["objective"]
        found = self._found(study)
        if found is None or found.state != TrialState.RUNNING:
            return True
        if objective not in values:
            raise ValueError(
                f"objective={objective} is not measured in training, by which trials are to be pruned: there are "
                f"{', '.join(sorted(values)) or 'none'}"
            )
        trial = Trial(study, found._trial_id)
        if step not in found.intermediate_values:  # as after a run that went on from before its last evaluation
            trial.report(values[objective], step)
        if not trial.should_prune():
            return True
        study.tell(found.number, state=TrialState.PRUNED)
        return False

    def _study(self) -> Study:
        import optuna
        from hydra.utils import instantiate

        from ldm.command.search.study import storage

        pruner = instantiate(self._said["pruner"])
        return optuna.load_study(
            study_name=self._said["study"], storage=storage(Path(self._said["folder"])), pruner=pruner
        )

    def _found(self, study: Study) -> FrozenTrial | None:
        """The newest trial of this run."""
        from ldm.command.search.study import RUNS

        every = study.get_trials(deepcopy=False)
        return next((each for each in reversed(every) if self._run in each.user_attrs.get(RUNS, ())), None)


def trial_of(config: Mapping[str, Any]) -> Trial | None:
    """The trial of the run with this config; None where no search has begun it, or it prunes none."""
    said = json.loads(os.environ.get(_SAID, "null"))
    name, every = config["name"], config["evaluation"].get("every")
    if said is None or said["pruner"] is None or not name or not every:
        return None
    own = Path(config["runs"], name).parent.resolve()
    return Trial(said, name) if own == Path(said["folder"]) else None
