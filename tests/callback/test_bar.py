"""The line that moves and the lines of a log file say where the stage is."""

import io
import logging

from rich.console import Console

from ldm.callback.progress import Bar, numbers
from tests.stage.tiny import At, fit, second


def test_a_log_file_gets_a_line_at_each_moment(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ldm.callback.progress"):
        fit(second(log_every=2, validate_every=0), tmp_path, Bar(Console(file=io.StringIO())))
    said = [each.getMessage() for each in caplog.records if each.name == "ldm.callback.progress"]
    assert [each.partition("  ")[0] for each in said] == [f"second stage {k}/6" for k in (2, 4, 6)]
    assert all("images/s" in each and "loss" in each for each in said)


def test_a_terminal_gets_a_bar_of_the_whole_stage(tmp_path):
    bar, seen = Bar(Console(file=io.StringIO(), force_terminal=True, width=120)), []

    def look(_):
        [task] = bar._progress.tasks
        seen.append((task.completed, task.total))

    fit(second(validate_every=0), tmp_path, bar, At(0, look), At(3, look))
    assert seen == [(0, 6), (3, 6)] and bar._progress is None, "it is put away at the end"


def test_numbers_are_those_worth_a_line():
    latest = {"images_per_second": 12.4, "loss": 0.123456, "rate": 0.01, "wait": 0.5, "prior gradient": 3.0}
    assert numbers(latest) == "12 images/s  loss 0.1235"
    assert numbers(latest | {"skipped": 0.0}) == numbers(latest)
    assert numbers(latest | {"skipped": 3.0}).endswith("  3 updates skipped")
    assert numbers({"kl (unweighted)": 1.0, "val diffusion, quarter 1": 2.0}) == ""
