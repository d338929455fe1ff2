"""The line of progress: what it says on terminals of several widths and in a log file."""

import io
import logging
import re
from itertools import pairwise

import lightning as L
import pytest
from rich.console import Console

from ldm.callback.progress import Bar, fitting, numbers
from tests.stage.tiny import second

LATEST = {
    **{"loss": 0.12345, "loss_t1": 0.5, "backbone gradient": 1.5, "error (unweighted)": 2.0, "skipped": 0.0},
    **{"rate": 1e-4, "images_per_second": 1234.4, "wait": 0.1, "error": 0.25, "val error": 0.5},
    **{"val loss": 0.23456, "val loss (average)": 0.34567},
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A stage of so many updates that a bar watches, each of which takes `seconds` and 64 images; its numbers are new every
    `every` updates."""

    def __init__(self, console: Console, steps: int, seconds: float = 1.0, every: int = 1, begun: int = 0):
        self.clock, self.stage = Clock(), second(steps=steps)
        self.bar, self.trainer = Bar(console, self.clock), L.Trainer(logger=False, enable_checkpointing=False)
        self.seconds, self.every, self.stage.updates = seconds, every, begun
        self.bar.on_train_start(self.trainer, self.stage)

    def do(self, updates: int) -> None:
        for _ in range(updates):
            self.bar.on_train_batch_start(self.trainer, self.stage, {}, 0)
            self.clock.now += self.seconds
            self.stage.updates += 1
            if self.stage.updates % self.every == 0:
                self.stage.latest = dict(LATEST)

    def end(self) -> None:
        self.bar.on_train_end(self.trainer, self.stage)


def last_line(width: int, steps: int = 100_000, updates: int = 10, **options) -> str:
    """What stands on a terminal after some updates."""
    screen = io.StringIO()
    watched = Watched(Console(file=screen, force_terminal=True, width=width), steps, **options)
    watched.do(updates)
    watched.end()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert all(len(line) <= width for line in lines)
    return lines[-1]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, "loss 0.1235  1234 images/s"),
        (110, "loss 0.1235  1234 images/s  val loss 0.2346"),
        (200, "loss 0.1235  1234 images/s  val loss 0.2346  val loss (average) 0.3457  error 0.25  val error 0.5"),
    ],
)
def test_bar_count_time_left_and_loss_have_room(width, shown):
    line = last_line(width)
    words = re.fullmatch(r"second stage ([━╸╺ ]+) +10/100000 27:46:30 (.*?) *", line)
    assert words and len(words[1]) >= 16 and words[2] == shown, line


def test_a_line_with_little_room_keeps_the_count():
    assert "10/1000 " in last_line(50, 1000) and "loss" not in last_line(50, 1000)


def test_a_stage_that_goes_on_counts_its_own_pace():
    """Updates that were done before are not done in no time."""
    assert " 0:08:20 " in last_line(80, 1000, 20, begun=480)


def lines_of(caplog, steps: int, **options) -> list[str]:
    with caplog.at_level(logging.INFO):
        watched = Watched(Console(file=io.StringIO(), force_terminal=False, width=80), steps, **options)
        watched.do(steps - watched.stage.updates)
        watched.end()
    return [record.message for record in caplog.records if record.name == "ldm.callback.progress"]


def test_a_log_file_has_whole_lines_with_the_time_left(caplog):
    found = lines_of(caplog, 100, seconds=60.0, every=50)
    tail = "loss 0.1235  1234 images/s  val loss 0.2346  val loss (average) 0.3457  error 0.25  val error 0.5"
    assert found == [f"second stage  50/100  50 min 00 s left  {tail}", f"second stage  100/100  done  {tail}"]


def test_a_log_files_lines_are_of_the_run_that_goes_on(caplog):
    assert lines_of(caplog, 100, seconds=1.0, every=20, begun=60)[0].startswith("second stage  80/100  20 s left  ")


def test_a_log_file_is_told_at_reasonable_intervals(caplog):
    """A line in ten seconds at first; of 10000 updates of a second each, one in a hundredth of the time passed."""
    found = lines_of(caplog, 10_000)
    steps = [int(re.search(r"(\d+)/10000", line)[1]) for line in found]
    gaps = [b - a for a, b in pairwise(steps)]
    assert steps[0] == 1 and steps[-1] == 10_000 and set(gaps[:90]) == {10} and len(found) < 350
    assert all(gap >= 0.01 * step - 1 for gap, step in zip(gaps[:-1], steps[1:], strict=False))


def test_what_went_wrong_stands_behind_the_loss():
    assert numbers(LATEST | {"skipped": 3.0})[:2] == ("loss 0.1235", "3 updates skipped")
    assert numbers({}) == ()


def test_a_number_is_whole_or_left_out():
    assert [fitting(("ab", "cde", "f"), width) for width in (0, 1, 2, 6, 7, 9, 10)] == [
        *("", "", "ab", "ab", "ab  cde", "ab  cde", "ab  cde  f")
    ]
