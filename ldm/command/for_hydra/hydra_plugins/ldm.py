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
        script: the entry point's file, which each process runs.
    """

    script: ClassVar[str]

    def __init__(self, n_jobs: int = 1):
        self.n_jobs = plain(n_jobs, PositiveInt, "hydra.launcher.n_jobs")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of a sweeper's jobs; ends the process where the sweep was asked to stop."""
        from ldm.command.sweep import ending, sweep
        from ldm.command.terminal import speak
        from ldm.run.signals import FINISHED, PREEMPTED

        speak()
        jobs = [list(words) for words in job_overrides]
        configs = [self.context.config_loader.load_sweep_config(self.config, words) for words in jobs]
        asked = _plain(configs[0])
        runs = Path(asked["runs"])
        rows = sweep(jobs, asked["name"], runs, self.script, OmegaConf.select(self.config, COMMON), self.n_jobs)
        if ending(rows, len(jobs)) == PREEMPTED:
            sys.exit(PREEMPTED)
        returns = []
        for words, config, row in zip(jobs, configs, rows, strict=True):
            returned = JobReturn(overrides=words, cfg=config, status=JobStatus.COMPLETED)
            try:
                if row["code"] != FINISHED:
                    raise JobFailed(f"{runs / row['run']}: {row['status']}; the same command tries it again")
                returned.return_value = value(runs / row["run"], asked["objective"])
            except JobFailed as error:
                returned.status, returned.return_value = JobStatus.FAILED, error
            returns.append(returned)
        return returns


def _plain(config: DictConfig) -> dict[str, Any]:
    """What is there of a job's config at its top, resolved."""
    return at_home(OmegaConf.to_container(OmegaConf.masked_copy(config, ["runs", "name", "objective"])))
