"""Progress as people expect it: stage, step, images/s, time left and losses, in one line that moves.

On a terminal a rich bar; in a log file, a line at each of the stage's log moments. Numbers are the stage's last means, so
watching costs no wait for the device.
"""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ldm.stage.stage import Stage

log = logging.getLogger(__name__)


class Bar(L.Callback):
    def __init__(self, console: Console):
        self.console = console
        self._progress: Progress | None = None
        self._shown: dict[str, float] = {}

    def on_fit_start(self, trainer: L.Trainer, stage: Stage) -> None:
        if not self.console.is_terminal or trainer.global_rank != 0:
            return
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(f"{stage.name} stage", total=stage.steps, numbers="")
        self._progress.start()

    def on_train_batch_start(self, trainer: L.Trainer, stage: Stage, batch: Any, index: int) -> None:
        self._show(trainer, stage)

    def on_fit_end(self, trainer: L.Trainer, stage: Stage) -> None:
        self._show(trainer, stage)
        self._stop()

    def _show(self, trainer: L.Trainer, stage: Stage) -> None:
        if trainer.global_rank != 0:
            return
        fresh, self._shown = stage.latest is not self._shown, stage.latest
        if self._progress is not None:
            self._progress.update(self._task, completed=stage.updates, numbers=numbers(stage.latest))
        elif fresh and stage.latest:
            log.info("%s stage %d/%d  %s", stage.name, stage.updates, stage.steps, numbers(stage.latest))

    def on_exception(self, trainer: L.Trainer, stage: Stage, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def numbers(latest: dict[str, float]) -> str:
    """The numbers worth a line: pace, losses, and what went wrong if something did."""
    hidden = ("rate", "images_per_second", "wait", "skipped")
    parts = [f"{latest['images_per_second']:.0f} images/s"] if "images_per_second" in latest else []
    apart = ("gradient", "(unweighted)")
    parts += [
        f"{k} {v:.4g}" for k, v in latest.items() if k not in hidden and not k.endswith(apart) and "quarter" not in k
    ]
    if latest.get("skipped"):
        parts.append(f"{latest['skipped']:.0f} updates skipped")
    return "  ".join(parts)
