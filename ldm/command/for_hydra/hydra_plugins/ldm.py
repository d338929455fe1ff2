"""The launcher `hydra/launcher=ldm`: a process a job.

Hydra builds launchers of the namespace package `hydra_plugins` alone, so its part of it is in a folder of its own, which
`ldm.command.launcher` puts on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt

from ldm.build import plain
from ldm.command.job import COMMON, JobFailed, value
from ldm.command.words import at_home


class Launcher(HydraLauncher):
    """A process a job (`ldm.command.sweep`).

    Arguments:
        n_jobs: so many processes at once.
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
        from ldm.command.sweep import ending, sweep
        from ldm.command.terminal import speak
        from ldm.run.signals import FINISHED, PREEMPTED

        speak()
        jobs = [list(words) for words in job_overrides]
        shared = OmegaConf.masked_copy(self.config, ["runs", "name", "objective"])
        asked = at_home(OmegaConf.to_container(shared, resolve=True))
        runs, common = Path(asked["runs"]), OmegaConf.select(self.config, COMMON)
        rows = sweep(jobs, asked["name"], runs, self.command, common, self.n_jobs)
        if ending(rows, len(jobs)) == PREEMPTED:
            sys.exit(PREEMPTED)
        returns = []
        for words, row in zip(jobs, rows, strict=True):
            returned = JobReturn(overrides=words, status=JobStatus.COMPLETED)
            try:
                if row["code"] != FINISHED:
                    raise JobFailed(f"{runs / row['run']}: {row['status']}; the same command tries it again")
                returned.return_value = value(runs / row["run"], asked["objective"])
            except JobFailed as error:
                returned.status, returned.return_value = JobStatus.FAILED, error
            returns.append(returned)
        return returns
