"""The progress of a stage in one line: stage, updates, time left, and the newest numbers.

On a terminal it is a progress bar. Bar, count and time left are always shown; the rest of the line has as many numbers as fit,
the loss first. In a log file a line is written when the stage logs, but not before ten seconds and a hundredth of the elapsed
time have passed since the last one, so that a day of training gives about a hundred lines. The numbers are the last means that
the stage has logged, so nothing waits for the device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ldm.report.words import duration
from ldm.stage.stage import Stage

log = logging.getLogger(__name__)

# Between lines: seconds, and share of the elapsed time. Between numbers: spaces.
_APART, _SHARE, _BETWEEN = 10.0, 0.01, "  "
_HIDDEN = ("rate", "images_per_second", "wait", "skipped")


class Bar(L.Callback):
    """Shows the progress of a stage on a terminal, or in a log.

    Arguments:
        console: the terminal, or whatever takes its place.
        clock: a function that returns the time in seconds, from any origin.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock = console, clock
        self._progress: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, stage: Stage) -> None:
        self._begun, self._first, self._logged_at, self._shown = self.clock(), stage.position, None, stage.latest
        if not self.console.is_terminal or trainer.global_rank != 0:
            return
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=max(10, self.console.width // 5)),
            TextColumn("{task.fields[standing]}"),
            TimeRemainingColumn(),
            _Numbers(),
            console=self.console,
            refresh_per_second=4,
            expand=True,
            get_time=self.clock,
        )
        name = f"{stage.name} stage"
        self._task = self._progress.add_task(
            name, total=stage.steps, completed=stage.position, standing=_standing(stage), numbers=()
        )
        self._progress.start()

    def on_train_batch_start(self, trainer: L.Trainer, stage: Stage, batch: Any, index: int) -> None:
        self._show(trainer, stage)

    def on_train_end(self, trainer: L.Trainer, stage: Stage) -> None:
        self._show(trainer, stage, last=True)
        self._stop()

    def on_exception(self, trainer: L.Trainer, stage: Stage, exception: BaseException) -> None:
        self._stop()

    def _show(self, trainer: L.Trainer, stage: Stage, last: bool = False) -> None:
        if self._progress is not None:
            self._progress.update(
                self._task, completed=stage.position, standing=_standing(stage), numbers=numbers(stage.latest)
            )
        elif trainer.global_rank == 0 and stage.latest is not self._shown and (last or self._due()):
            self._logged_at, self._shown = self.clock(), stage.latest
            log.info(self._line(stage))

    def _due(self) -> bool:
        if self._logged_at is None:
            return True
        now = self.clock()
        return now - self._logged_at >= max(_APART, _SHARE * (now - self._begun))

    def _line(self, stage: Stage) -> str:
        """A line for a log file. The time left assumes that the rest takes as long as what was done so far."""
        done, left = stage.position - self._first, stage.steps - stage.position
        passed = self.clock() - self._begun
        wait = f"{duration(passed / done * left if done else passed * left)} left" if left else "done"
        return _BETWEEN.join([f"{stage.name} stage", _standing(stage), wait, *numbers(stage.latest)])

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _standing(stage: Stage) -> str:
    return stage.recipe.standing(stage.updates, stage.spent)


class _Numbers(ProgressColumn):
    """The column with the field `numbers` of a task, from the first as many as fit."""

    def __init__(self) -> None:
        super().__init__(Column(ratio=1, no_wrap=True))

    def render(self, task: Task) -> RenderableType:
        return _Fitting(task.fields["numbers"])


class _Fitting:
    def __init__(self, parts: Sequence[str]):
        self.parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(fitting(self.parts, options.max_width), end="")


def fitting(parts: Sequence[str], width: int) -> str:
    """The text of the first parts, as many as fit completely into `width` columns beside each other."""
    for count in range(len(parts), 0, -1):
        text = _BETWEEN.join(parts[:count])
        if cell_len(text) <= width:
            return text
    return ""


def numbers(latest: Mapping[str, float]) -> tuple[str, ...]:
    """The newest numbers as texts, the most important first: the loss, skipped updates, images per second, the held-out loss,
    and the terms of the losses."""
    said = [f"loss {latest['loss']:.4g}"] if "loss" in latest else []
    said += [f"{latest['skipped']:.0f} updates skipped"] if latest.get("skipped") else []
    said += [f"{latest['images_per_second']:.0f} images/s"] if "images_per_second" in latest else []
    apart = ("gradient", "(unweighted)")
    rest = [k for k in latest if k not in ("loss", *_HIDDEN) and not k.endswith(apart) and "loss_t" not in k]
    rest.sort(key=lambda name: not name.startswith("val loss"))
    return (*said, *(f"{name} {latest[name]:.4g}" for name in rest))
