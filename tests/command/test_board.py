"""The table of a sweep while it runs, at 80 columns."""

import io
import json

import pytest
from rich.console import Console

from ldm.command.board import Board, standing


@pytest.fixture
def board(tmp_path) -> Board:
    """A sweep of a job that runs and others that have ended, in a world where 75 seconds have passed since the first began."""
    now = iter([0.0, 75.0])
    board = Board(tmp_path, "s", ["psnr"], clock=lambda: next(now, 75.0))
    board.begin("s/seed-0")
    board.end({"run": "s/seed-1", "status": "finished", "seconds": 3700.0})
    board.end({"run": "s/seed-2", "status": "failed", "seconds": 2.0, "error": "ValueError: [no] such thing"})
    for seed, rows in (
        (0, [("first", 4, {"loss": 0.5}), ("second", 30, {"loss": 0.25})]),
        (1, [("second", 100, {"psnr": 31.5})]),
    ):
        run = tmp_path / "s" / f"seed-{seed}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(
            "first: {steps: 4}\nsecond: {steps: 100, budget: {_target_: a, seconds: null}}\n"
        )
        lines = [json.dumps({"stage": stage, "step": step, "images": 0, **values}) for stage, step, values in rows]
        (run / "metrics.jsonl").write_text("\n".join([*lines, '{"torn": ']))
    return board


def shown(board: Board, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(board.live(height))
    return console.file.getvalue().splitlines()


def test_a_line_says_how_far_a_job_is(board):
    lines = shown(board, 30)
    assert max(map(len, lines)) <= 80
    rows = [line.split(None, 4) for line in map(str.rstrip, lines[4:7])]
    assert rows == [
        ["seed-1", "finished", "second", "100/100", "1:01:40  psnr 31.5"],
        ["seed-2", "failed", "0:00:02", "ValueError:", "[no] such thing"],
        ["seed-0", "running", "second", "30/100", "0:01:15  loss 0.25"],
    ]
    assert "1 running, 1 finished, 1 failed" in lines[-1]


def test_of_more_jobs_than_lines_the_last_and_those_that_run_are_shown(board):
    for seed in range(3, 200):
        board.end({"run": f"s/seed-{seed}", "status": "finished", "seconds": 1.0})
    lines = shown(board, 10)
    assert len(lines) <= 10
    assert [line.split()[0] for line in lines[4:-2]] == ["seed-197", "seed-198", "seed-199", "seed-0"]
    assert "198 finished" in lines[-1]


def test_of_a_long_name_the_end_is_shown(board):
    board.end({"run": f"s/{'x' * 40}-0.25", "status": "stopped", "seconds": 1.0})
    assert shown(board, 30)[6].split()[0] == f"…{'x' * 24}-0.25"


def test_a_stage_that_ends_by_a_budget_has_no_planned_updates(board):
    run = board.folder / "seed-0"
    (run / "config.yaml").write_text("second: {steps: 100, budget: {_target_: a, seconds: 60}}\n")
    assert standing(run) == ("second 30", "loss 0.25")
    assert standing(board.folder / "nothing") == ("", "")


def test_where_there_is_no_terminal_nothing_is_drawn(board):
    console = Console(file=io.StringIO(), width=80)
    with board.shown(console):
        board.begin("s/seed-9")
    assert console.file.getvalue() == ""


def test_on_a_terminal_the_table_is_there_and_gone_at_the_end(board):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with board.shown(console):
        pass
    said = console.file.getvalue()
    assert "second 30/100" in said and said.rstrip().endswith("\x1b[2K"), "its lines are erased"
