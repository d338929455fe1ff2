"""The sweeper `hydra/sweeper=optuna`: a search over ranges, by numbers of the records (`ldm.command.search.study`).

Trials are chosen and told a batch after the other, as many as run at once, so that what is chosen follows from the seed and from
what came of the batches before, and not from which job was quicker: a batch waits for its slowest. What of them can be said is
in the sweep's directory when a batch ends, so that an interrupted search goes on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt

from ldm.build import plain
from ldm.command.grammar import at_home
from ldm.command.job import COMMON, NoRecord
from ldm.report.setting import is_aside

log = logging.getLogger(__name__)

_HOPELESS = 3  # trials that all failed, after which no other is begun
_COMPARED = ("metric", "evaluation")  # of what says nothing of a training


class Search(Sweeper):
    """A search by Optuna.

    Arguments:
        n_trials: of the study, those of earlier calls among them; failed ones do not count.
        sampler: makes what chooses, of a seed.
        seed: of the choices.
        pruner: ends trainings that are not worth going on; None ends none.
        direction: `minimize` or `maximize`, of several objectives a list; None takes what is known of their names.
        n_jobs: trials that are chosen at once; None is as many as the launcher runs.
    Attributes:
        command: that each process of our launcher runs with its words.
    """

    command: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        sampler: Callable[..., Any],
        pruner: Mapping[str, Any] | None = None,
        n_trials: int = 20,
        seed: int = 0,
        direction: Any = None,
        n_jobs: int | None = None,
    ):
        self.sampler, self.seed, self.direction, self.pruner = sampler, seed, direction, pruner
        self.n_trials = plain(n_trials, PositiveInt, "hydra.sweeper.n_trials")
        self.n_jobs = None if n_jobs is None else plain(n_jobs, PositiveInt, "hydra.sweeper.n_jobs")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.pruner = OmegaConf.to_container(config.hydra.sweeper, resolve=True).get("pruner") or None
        given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments: list[str]) -> None:
        """Search; ends the process where the words cannot be a search."""
        from ldm.command.terminal import speak

        speak()
        try:
            self._prepare(arguments)
            lock = FileLock(self.folder / ".search.lock")
            lock.acquire(timeout=0)
        except Timeout:
            sys.exit(f"{self.folder} is searched in by another process; wait for it, or choose another name=")
        except (ValueError, ImportError) as error:
            sys.exit(str(error))
        try:
            self._search()
        finally:
            self._write()
            lock.release()

    def _prepare(self, arguments: list[str]) -> None:
        """Everything that may be wrong with the words. Raises ValueError, or ImportError for a sampler that is not installed."""
        from ldm.command.search.objective import goal, unmeasured
        from ldm.command.search.ranges import space
        from ldm.command.search.study import Study
        from ldm.command.search.trial import announce

        words = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(arguments)
        self.space = space(words)
        asked = at_home(OmegaConf.to_container(OmegaConf.masked_copy(self.config, ["runs", "name", "objective"])))
        self.goal = goal(
            asked["objective"], OmegaConf.to_container(OmegaConf.create({"direction": self.direction}))["direction"]
        )
        wrong = unmeasured(self.goal.names, OmegaConf.to_container(self.config.metric, resolve=True))
        if wrong:
            raise ValueError(wrong)
        self._check_pruner()
        self.sampler(seed=self.seed)
        if self.pruner is not None:
            instantiate(self.pruner)
        self.name, self.folder = asked["name"], Path(asked["runs"]) / asked["name"]
        lasting = [word for word in self.space.fixed if _is_compared(word)]
        seeds = [word for each in self.space.seeds for word in each]
        self.study = Study(self.folder, self.goal, self.space.ranges, [*lasting, *seeds], self.sampler, self.seed)
        announce(self.folder, str(self.goal), self.goal.names[0], self.pruner)

    def _check_pruner(self) -> None:
        evaluation = OmegaConf.to_container(self.config.evaluation)
        if self.pruner is None:
            return
        if not evaluation.get("every"):
            raise ValueError(
                "hydra/sweeper/pruner prunes by evaluations in training, and there are none: say evaluation.every=IMAGES"
            )
        if len(self.goal.names) > 1 or any(len(each) > 1 for each in self.space.seeds):
            raise ValueError(
                "hydra/sweeper/pruner prunes by one objective of one run a trial: leave the pruner out, or name one objective= "
                "and one seed"
            )

    # Trials

    def _search(self) -> None:
        left = self.n_trials - self.study.counted
        failed = begun = 0
        if left <= 0:
            log.info("the study has %d trials, of n_trials=%d; nothing to do", self.study.counted, self.n_trials)
        while left > 0:
            trials = [self.study.ask() for _ in range(min(left, self._at_once()))]
            failed += self._run(trials, begun)
            begun, left = begun + len(trials), left - len(trials)
            if failed == begun >= _HOPELESS and not self.study.counted:
                log.error("the first %d trials failed, so no other is begun; the same command goes on", failed)
                break
        if failed:
            sys.exit(1)

    def _at_once(self) -> int:
        several = OmegaConf.select(self.config, "hydra.launcher.n_jobs")
        return self.n_jobs or max(1, several if isinstance(several, int) else 1)

    def _run(self, trials: Sequence[Any], begun: int) -> int:
        """Run a batch of trials and tell the study; how many failed."""
        from ldm.command.job_name import job_name
        from ldm.run.directory import facts_of

        common = OmegaConf.select(self.config, COMMON)
        jobs: dict[str, list[str]] = {}
        runs = {}
        for trial in trials:
            own = {f"{self.name}/{job_name(words, common)}": words for words in self.space.jobs(trial.params)}
            runs[trial.number] = list(own)
            self.study.begin(trial, runs[trial.number])
            jobs |= own  # of two trials that chose alike the runs are the same
        self.validate_batch_is_legal(list(jobs.values()))
        returned = dict(zip(jobs, self.launcher.launch(list(jobs.values()), initial_job_idx=begun), strict=True))
        failed = 0
        self._check_values(returned.values())
        for trial in trials:
            values = self._values([returned[run] for run in runs[trial.number]])
            states = [facts_of(self.folder.parent.joinpath(run)).get("status") for run in runs[trial.number]]
            self.study.tell(trial, values, diverged="diverged" in states)
            failed += self.study.failed(trial)
        return failed

    def _check_values(self, returned: Iterable[JobReturn]) -> None:
        """End the search where a run that is finished has not the numbers that it is to be judged by: no other would."""
        for each in returned:
            if each.status == JobStatus.FAILED and isinstance(each._return_value, NoRecord):
                sys.exit(str(each._return_value))

    def _values(self, returned: Sequence[JobReturn]) -> list[float] | None:
        """The mean of each objective over the runs of a trial; None where a run has none."""
        found = []
        for each in returned:
            if each.status != JobStatus.COMPLETED or each.return_value is None:
                return None
            value = each.return_value
            found.append(value if isinstance(value, list) else [value])
        return [fmean(column) for column in zip(*found, strict=True)]

    def _write(self) -> None:
        from ldm.command.search.result import write

        write(self.study, self.space, self.folder, ["python", *self.command[1:]])


def _is_compared(word: str) -> bool:
    """Whether two trials are comparable only where they have this word in common."""
    key = word.partition("=")[0].lstrip("+~")
    return key not in ("name", "objective") and (not is_aside(key) or key.split(".")[0] in _COMPARED)
