"""The line that moves says where the stage is."""

import io

from rich.console import Console

from ldm.callback.progress import Bar, numbers
from tests.stage.tiny import At, fit, second


def test_a_terminal_gets_a_bar_of_the_whole_stage(tmp_path):
    bar, seen = Bar(Console(file=io.StringIO(), force_terminal=True, width=120)), []

    def look(_):
        [task] = bar._progress.tasks
        seen.append((task.completed, task.total))

    fit(second(validate_every=0), tmp_path, bar, At(0, look), At(3, look))
    assert seen == [(0, 6), (3, 6)] and bar._progress is None, "it is put away at the end"


def test_numbers_are_those_worth_a_line():
    latest = {"images_per_second": 12.4, "loss": 0.123456, "rate": 0.01, "wait": 0.5, "prior gradient": 3.0}
    assert numbers(latest) == ("loss 0.1235", "12 images/s")
    assert numbers(latest | {"skipped": 0.0}) == numbers(latest)
    assert numbers(latest | {"skipped": 3.0}) == ("loss 0.1235", "3 updates skipped", "12 images/s")
    assert numbers({"kl (unweighted)": 1.0, "val loss_t0": 2.0}) == ()
