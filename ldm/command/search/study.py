"""The study of a search: which choices were tried, what came of them, and which is tried next.

It is a file in the sweep's directory, `search.journal`, to which several processes append. So a job tells by itself what
evaluations in training measure, asks whether it is worth going on, and an interrupted search finds all of it again.

A trial that was under way when the search ended is under way still: its runs go on. One that failed is tried once more by each
further command. One that diverged counts as the worst there is and not as a failure, of which a sampler would learn nothing.
The draws of a sampler are a function of the seed and the number of the trial, so a search that was interrupted chooses as one
that was not.

Sources:
    Akiba, Sano, Yanase, Ohta and Koyama, Optuna: A next-generation hyperparameter optimization framework (2019), arXiv 1907.10902
    Watanabe, Bansal and Hutter, PED-ANOVA: Efficiently quantifying hyperparameter importance in arbitrary subspaces (2023),
        arXiv 2304.10255
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, check_distribution_compatibility
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

FILE = "search.journal"
_AGAIN, RUNS, _WORDS = "again", "runs", "words"
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
_FEWEST = 6  # trials, from which shares say something
_BEST = 0.25  # of the trials are compared with all

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _mixed(seed: int, number: int) -> int:
    """A seed for the choice of a trial, of which neighbours have nothing in common."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def storage(folder: Path) -> JournalStorage:
    """The file of the studies of a sweep's directory."""
    return JournalStorage(JournalFileBackend(str(folder / FILE)))


def _complete(file: Path) -> None:
    """Drop half a line at the end of a journal, which a full disk or a lost machine leaves: Optuna would put the next one behind
    it, and then read neither."""
    if file.exists():
        lines = file.read_bytes()
        if not lines.endswith(b"\n"):
            os.truncate(file, lines.rfind(b"\n") + 1)


class OtherSearch(ValueError):
    """The directory has a search that this one does not go on; the message says which and what to do."""


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    Fields:
        names: of records, of each the best.
        lower: of each, whether less is better.
    """

    names: Sequence[str]
    lower: Sequence[bool]

    @property
    def directions(self) -> list[str]:
        """As Optuna calls them."""
        return ["minimize" if lower else "maximize" for lower in self.lower]

    def __str__(self) -> str:
        return ", ".join(f"{way} {name}" for way, name in zip(self.directions, self.names, strict=True))


class Study:
    """The trials of a search.

    Arguments:
        folder: of the sweep.
        goal: what is searched for; the study of another goal in the same folder is another one.
        ranges: what is chosen from.
        words: of all jobs, by which values of one study are comparable.
        sampler: makes a sampler of a seed.
        seed: of the choices.

    Raises:
        OtherSearch: the folder's study was made under other words, or chose a key from what is not comparable.
    """

    def __init__(
        self,
        folder: Path,
        goal: Goal,
        ranges: Mapping[str, BaseDistribution],
        words: Collection[str],
        sampler: Callable[..., BaseSampler],
        seed: int,
    ):
        self.goal, self.ranges, self._sampler, self._seed = goal, dict(ranges), sampler, seed
        folder.mkdir(parents=True, exist_ok=True)
        _complete(folder / FILE)
        self._study = optuna.create_study(
            storage=storage(folder), study_name=str(goal), directions=goal.directions, load_if_exists=True
        )
        self._check(folder, sorted(words))
        self._left = self._under_way()
        self._try_failed_again()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All, in their order."""
        return self._study.get_trials(deepcopy=False)

    @property
    def counted(self) -> int:
        """Trials of which something is known."""
        return sum(trial.state in _COUNTED for trial in self.trials)

    def _check(self, folder: Path, words: list[str]) -> None:
        before = self._study.user_attrs.get(_WORDS)
        if before is None:
            self._study.set_user_attr(_WORDS, words)
        elif before != words:
            differing = sorted(set(before) ^ set(words))
            said = " ".join(word.lstrip("+") for word in differing)
            raise OtherSearch(
                f"{folder} has a search under other words ({said}), with which these numbers cannot be compared; another name= "
                "begins a new one"
            )
        for trial in self.trials:
            for key, distribution in trial.distributions.items():
                if key not in self.ranges:
                    raise OtherSearch(f"{folder} has a search over {key}, too; another name= begins a new one")
                try:
                    check_distribution_compatibility(distribution, self.ranges[key])
                except ValueError:
                    raise OtherSearch(
                        f"{folder} has a search over {key} of another kind or among other choices ({distribution}); another "
                        "name= begins a new one"
                    ) from None

    def _under_way(self) -> list[FrozenTrial]:
        """Trials that go on. One beyond the ranges of now was given up."""
        left = []
        for trial in self.trials:
            if trial.state == TrialState.RUNNING:
                if self._is_within(trial):
                    left.append(trial)
                else:
                    self._study.tell(trial.number, state=TrialState.FAIL)
        return left

    def _try_failed_again(self) -> None:
        known = [trial.user_attrs.get(_AGAIN) for trial in self.trials]
        for trial in self.trials:
            if trial.state == TrialState.FAIL and trial.number not in known and self._is_within(trial):
                self._study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})

    def _is_within(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.ranges.keys() and all(
            isinstance(range_, CategoricalDistribution) or range_.low <= trial.params[key] <= range_.high
            for key, range_ in self.ranges.items()
        )

    def ask(self) -> Trial:
        """The next choice: one that was under way, else a new one."""
        if self._left:
            return Trial(self._study, self._left.pop(0)._trial_id)
        self._study.sampler = self._sampler(seed=_mixed(self._seed, len(self.trials)))
        return self._study.ask(self.ranges)

    def begin(self, trial: Trial, runs: Sequence[str]) -> None:
        """Note which runs are of a trial, by which their jobs know it."""
        trial.set_user_attr(RUNS, list(runs))

    def failed(self, trial: Trial) -> bool:
        """Whether nothing has come of a trial."""
        return self.trials[trial.number].state == TrialState.FAIL

    def tell(self, trial: Trial, values: Sequence[float] | None, diverged: bool = False) -> None:
        """What came of a trial: its values, or None where it has none."""
        if self.trials[trial.number].state != TrialState.RUNNING:  # its job has said so
            return
        if values is not None and all(map(math.isfinite, values)):
            self._study.tell(trial, list(values))
        else:
            self._study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)

    def best(self) -> list[FrozenTrial]:
        """The best trial; of several goals all that no other is as good as in each."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.trials):
            return []
        return self._study.best_trials

    def importances(self) -> list[dict[str, float]]:
        """Of each goal, the share of what is gained by choosing well that each range has, by PED-ANOVA; none
        where there are too few trials, or all are alike. Ranges may have changed on the way."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        done = [trial for trial in done if trial.params.keys() == self.ranges.keys()]
        found = []
        for place, lower in enumerate(self.goal.lower):
            values = [trial.values[place] for trial in done]
            if len(done) < _FEWEST or len(set(values)) < 2 or len(self.ranges) < 2:
                found.append({})
                continue
            study = optuna.create_study(direction="minimize" if lower else "maximize")
            widest = self._widest(done)
            for trial, value in zip(done, values, strict=True):
                study.add_trial(optuna.create_trial(params=trial.params, distributions=widest, value=value))
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
            found.append(dict(optuna.importance.get_param_importances(study, evaluator=evaluator)))
        return found

    def _widest(self, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        widest = {}
        for key, own in self.ranges.items():
            every = [own, *(trial.distributions[key] for trial in trials)]
            if isinstance(own, CategoricalDistribution):
                widest[key] = own
            else:
                low, high = min(each.low for each in every), max(each.high for each in every)
                widest[key] = type(own)(low, high, log=own.log)
        return widest
