"""The launcher `hydra/launcher=ldm`: a process a job.

Hydra builds launchers of the namespace package `hydra_plugins` alone, so its part of it is in a folder of its own, which
`ldm.command.launcher` puts on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt

from ldm.build import plain
from ldm.command.job import COMMON, JobFailed, value


class Returned(JobReturn):
    """What a job returns. One that failed raises what became of it, without a line of Hydra's with all words of the sweep."""

    @JobReturn.return_value.getter
    def return_value(self) -> Any:
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value


class Launcher(HydraLauncher):
    """A process a job (`ldm.command.sweep`).

    Arguments:
        n_jobs: so many processes at once; of several GPUs each has its own.
    Attributes:
        command: that each process runs with its words.
    """

    command: ClassVar[tuple[str, ...]]

    def __init__(self, n_jobs: int = 1):
        self.n_jobs = plain(n_jobs, PositiveInt, "hydra.launcher.n_jobs")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of a sweeper's jobs; ends the process where the sweep was asked to stop."""
        from ldm.command.conclusion import Sweep
        from ldm.command.devices import shares
        from ldm.command.sweep import ending, sweep
        from ldm.command.terminal import screen, speak
        from ldm.run.signals import FINISHED, PREEMPTED, PRUNED

        speak()
        jobs, board = [list(words) for words in job_overrides], Sweep.board
        own = shares(self.n_jobs, OmegaConf.select(self.config, "trainer") or {})
        common, total = OmegaConf.select(self.config, COMMON), OmegaConf.select(self.config, "hydra.sweeper.n_trials")
        rows = sweep(jobs, board, self.command, common, own, initial_job_idx, total, screen())
        if ending(rows, len(jobs)) == PREEMPTED:
            sys.exit(PREEMPTED)
        returns = []
        for words, row in zip(jobs, rows, strict=True):
            returned = Returned(overrides=words, status=JobStatus.COMPLETED)
            try:
                if row["code"] not in (FINISHED, PRUNED):
                    raise JobFailed(f"{board.runs / row['run']}: {row['status']}; the same command tries it again")
                asked = OmegaConf.to_container(OmegaConf.masked_copy(self.config, ["objective"]))["objective"]
                returned.return_value = None if row["code"] == PRUNED else value(board.runs / row["run"], asked)
            except JobFailed as error:
                returned.status, returned.return_value = JobStatus.FAILED, error
            returns.append(returned)
        return returns
