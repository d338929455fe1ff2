"""What Hydra runs in a process: a run alone, or a job of a sweep, whichever launcher has begun it.

A job asks its run by itself whether it is finished under just these words, so that the same sweep goes on under any launcher,
and returns the values of the records that `objective` names, by which a sweeper such as Optuna's searches. Our launcher names
the runs of its jobs; under any other one a job gives its run the same name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from ldm.command.job_name import job_name
from ldm.nearest import nearest
from ldm.run.directory import asked_for, finished_as

COMMON = "hydra.job.config.override_dirname.exclude_keys"
"""Where a job's config holds the keys of the words that all jobs of the sweep share: Hydra's own field for it."""

Value = float | list[float] | None
"""What a job returns to its sweeper: the value of its objective, or of each of several."""


class JobFailed(CompactHydraException):
    """A job of a sweep did not finish. Hydra prints the message alone, for the job itself has told what was wrong."""


class NoRecord(JobFailed):
    """A run is finished and has not the numbers that its sweeper is to be told."""


def job(check: Callable[[Sequence[str]], dict[str, Any]], train: Callable[[dict[str, Any]], int]) -> Value:
    """Train what this process's words describe; the value of a sweep's job. Ends the process where it was asked to stop, and
    by its exit code where there is no other job in it.

    Arguments:
        check: gives the plain config of what was typed; ends the process where it is wrong.
        train: does what a config describes and returns its exit code.
    Raises:
        JobFailed: in the process of another launcher, where the job did not finish.
    """
    hydra = HydraConfig.get()
    alone = hydra.mode != RunMode.MULTIRUN
    swept = not alone or not OmegaConf.is_missing(hydra.job, "num")
    config = check(hydra.overrides.task) if alone else _named(check)
    run = Path(config["runs"]) / (config["name"] or "")
    if swept and finished_as(run) == asked_for(config):
        print(f"{run} is finished under the same words; nothing to do", flush=True)
    else:
        from ldm.command.search.trial import trial_of
        from ldm.run.signals import PREEMPTED, PRUNED

        code, trial = train(config), trial_of(config)
        if code == PREEMPTED and trial is not None and trial.pruned:
            code = PRUNED
        if code == PRUNED and not alone:
            return None
        if code and (alone or code == PREEMPTED):
            sys.exit(code)
        if code:
            raise JobFailed(f"{run} did not finish (exit code {code}); the same command tries it again")
    return None if alone else value(run, config["objective"])


def _named(check: Callable[[Sequence[str]], dict[str, Any]]) -> dict[str, Any]:
    """The config of a job of another launcher, under the name of its run."""
    try:
        config = check(HydraConfig.get().overrides.task)
    except SystemExit as error:
        raise JobFailed(str(error)) from None
    own = job_name(HydraConfig.get().overrides.task, OmegaConf.select(HydraConfig.instance().cfg, COMMON))
    return config | {"name": f"{config['name']}/{own}"}


def value(run: Path, objective: str | list[str] | None) -> Value:
    """The newest value of each record that is asked for; NoRecord where a run has no such record."""
    from ldm.run import record

    if objective is None:
        return None
    found = {each.metric: each.value for each in record.current(record.read(run / "records.jsonl"))}
    for name in [objective] if isinstance(objective, str) else objective:
        if name not in found:
            raise NoRecord(f"objective={name}: {run} has no such record{nearest(name, found)}")
    return found[objective] if isinstance(objective, str) else [found[name] for name in objective]
