"""Training begins: in this process, or in as many as the trainer has devices.

How many they are is mostly a number in the config, so the process that only starts the others imports next to nothing.
"""

from __future__ import annotations

from typing import Any

from ldm.command.search.trial import trial_of
from ldm.command.terminal import guarded
from ldm.stage.agent import launch, started_elsewhere

_NEEDED = ["ldm.experiment.experiment"]


def start(config: dict[str, Any]) -> int:
    """Train what a config describes, on all of its devices; the exit code of the process. In a rank, do its part."""
    devices = config["trainer"].get("devices")
    if type(devices) is int and devices > 1 and not started_elsewhere():
        return guarded(lambda: launch(devices, start, config, _NEEDED))
    from ldm.experiment.experiment import Experiment  # before anything is said, for Lightning sets up its log
    from ldm.run.machine import flush_denormals
    from ldm.stage.launch import to_start

    flush_denormals()

    trial = trial_of(config)
    judge = None if trial is None else trial.judge(config["evaluation"]["every"])

    def run() -> int:
        count = to_start(config["trainer"])
        return Experiment(config, judge).run() if count == 1 else launch(count, start, config, _NEEDED)

    return guarded(run)
