"""Lightning callbacks that a config names: those of `lightning.pytorch.callbacks`, or a user's own.

They are built anew for each stage, and given to its trainer. They can use:

    trainer.global_step             the number of updates
    trainer.callback_metrics        the stage's newest numbers by their names, as `loss` and `val diffusion (average)`
    trainer.logger                  what is logged there becomes numbers of the stage, in the journal and in every logger
    on_validation_start, ..._end    around each validation
    trainer.should_stop = True      saves and stops the stage as a signal would; the same command resumes it

There is only one epoch, however often the data are repeated. A callback's own state is not saved when a run stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers.logger import Logger

from ldm.build import Config, build
from ldm.resolve import ConfigError, resolve
from ldm.stage.stage import Stage


def check(nodes: Config) -> None:
    """Raise ConfigError where one of the nodes does not describe a callback."""
    for name, node in nodes.items():
        if not issubclass(resolve(node["_target_"], f"callback.{name}"), L.Callback):
            raise ConfigError(f"callback.{name}: wanted a lightning.pytorch.Callback, got {node['_target_']}")


def watching(nodes: Config, stage: Stage, batch_size: int, folder: Path) -> tuple[list[L.Callback], dict[str, Any]]:
    """The callbacks of a stage and, where there are some, the arguments that its trainer needs for them.

    Arguments:
        nodes: the config's nodes of callbacks, by name.
        stage: the stage.
        batch_size: size of the global batch.
        folder: the folder for files that they write.
    """
    callbacks = [build(node, f"callback.{name}") for name, node in nodes.items()]
    if not callbacks:
        return [], {}
    return callbacks, {
        "logger": StageLogger(stage, batch_size, folder),
        "log_every_n_steps": min(stage.recipe.log_every, stage.steps) * stage.accumulate,
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        "enable_progress_bar": any(isinstance(each, ProgressBar) for each in callbacks),
    }


class StageLogger(Logger):
    """A Lightning logger that turns what callbacks log into numbers of the stage.

    Arguments:
        stage: the stage.
        batch_size: size of the global batch.
        folder: the folder for files that callbacks write.
    """

    def __init__(self, stage: Stage, batch_size: int, folder: Path):
        super().__init__()
        self.stage, self.batch_size, self.folder = stage, batch_size, folder

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.stage.publish(self.batch_size, {name: float(value) for name, value in metrics.items()})

    def log_hyperparams(self, *_: Any) -> None:
        """The config is in the run's directory and in every logger already."""
