"""A sweep whose jobs fail in every way: the others finish, all is told, and the same command tries only the failed again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from ldm.command import sweep as sweeping
from ldm.command.board import Board
from ldm.command.conclusion import compare
from ldm.command.job_name import job_name
from ldm.command.processes import error_of
from ldm.command.sweep import ending
from ldm.run.record import Record, write
from ldm.run.signals import FAILED, FINISHED, PREEMPTED

ROOT = Path(__file__).parents[2]

# Stands for train.py: notes that it ran, and ends as its word says.
JOB = """
import os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
place = pathlib.Path(__file__).parent
with open(place / "ran.txt", "a") as file:
    file.write(words["do"] + "\\n")
run = place / "runs" / words["name"].strip("'")
run.mkdir(parents=True, exist_ok=True)
(run / "run.json").write_text('{"status": "finished"}')
mended = (place / "mended").exists()
if words["do"] == "raise" and not mended:
    sys.exit("ValueError: the data is not there")
if words["do"] == "oom" and not mended:
    os.kill(os.getpid(), signal.SIGKILL)
if words["do"] == "stop" and not mended:
    sys.exit(75)
if words["do"] == "diverge" and not mended:
    sys.exit(3)
if words["do"] in ("left", "right"):
    (place / words["do"]).touch()
    deadline, other = time.monotonic() + 20, place / {"left": "right", "right": "left"}[words["do"]]
    while not other.exists():
        if time.monotonic() > deadline:
            sys.exit("RuntimeError: alone")
        time.sleep(0.01)
    print("both are here")
if words["do"] in ("first", "second"):
    os.mkdir(place / "busy")
    os.rmdir(place / "busy")
if words["do"].startswith("wait"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (place / ("waiting" + words["do"].removeprefix("wait"))).touch()
    time.sleep(30)
"""


@pytest.fixture
def script(tmp_path) -> list[str]:
    (tmp_path / "job.py").write_text(JOB)
    return [sys.executable, str(tmp_path / "job.py")]


def sweep(jobs: list[list[str]], runs: Path, script: list[str], name: str = "s", n_jobs: int = 1) -> int:
    """The exit code of a sweep whose jobs share the words that all of them have."""
    common = {word.partition("=")[0] for word in set(jobs[0]).intersection(*jobs[1:])}
    board = Board(runs, name)
    rows = sweeping.sweep(jobs, board, script, common, [{}] * n_jobs)
    board.show()
    return ending(rows, len(jobs))


def statuses(tmp_path, name="s") -> dict[str, str]:
    return {row["run"]: row["status"] for row in json.loads((tmp_path / "runs" / name / "sweep.json").read_text())}


def test_a_finished_job_whose_run_is_gone_is_done_again(tmp_path, script):
    jobs = [["name=s", f"do={word}"] for word in ("well", "again")]
    assert sweep(jobs, tmp_path / "runs", script) == sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "again"]
    (tmp_path / "runs" / "s" / "do-well" / "run.json").unlink()
    (tmp_path / "runs" / "s" / "do-again" / "run.json").write_text('{"status": "stopped"}')
    assert sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "again"] * 2


def test_a_sweep_ends_by_writing_its_report(tmp_path, script):
    jobs = [["name=s", f"do={word}"] for word in ("well", "raise")]
    sweep(jobs, tmp_path / "runs", script)
    compare(tmp_path / "runs" / "s")
    page = (tmp_path / "runs" / "s" / "report" / "report.html").read_text(encoding="utf-8")
    assert "2 runs" in page and "do-well" in page and "do-raise" in page


def test_a_job_that_is_named_alike_and_has_other_words_is_done_again(tmp_path, script):
    """A word that all jobs have is in no name."""
    for seed in (0, 1, 1):
        jobs = [["name=s", f"do={word}", f"seed={seed}"] for word in ("well", "again")]
        assert sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "again"] * 2


def test_every_end_is_told_and_only_the_failed_are_tried_again(tmp_path, script, capfd):
    jobs = [["name=s", f"do={word}"] for word in ("well", "raise", "oom", "again")]
    assert sweep(jobs, tmp_path / "runs", script) == FAILED
    wanted = ["finished", "failed", "killed by SIGKILL", "finished"]
    assert statuses(tmp_path) == {
        f"s/do-{w}": s for w, s in zip(("well", "raise", "oom", "again"), wanted, strict=True)
    }
    out, err = capfd.readouterr()
    assert "the data is not there" in err and "ValueError: the data" in " ".join(out.split()) and "SIGKILL" in out
    (tmp_path / "mended").touch()
    assert sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert set(statuses(tmp_path).values()) == {"finished"}
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "raise", "oom", "again", "raise", "oom"]


def test_a_diverged_job_has_its_word(tmp_path, script):
    assert sweep([["name=s", "do=diverge"]], tmp_path / "runs", script) == FAILED
    assert statuses(tmp_path) == {"s/only": "diverged"}


def stopped(tmp_path, script, jobs: list[list[str]], waiting: list[str], n_jobs: int) -> int:
    """The exit code of a sweep that is sent SIGTERM when these files are there."""
    code = "import sys; from pathlib import Path; from ldm.command.board import Board; "
    code += "from ldm.command.sweep import ending, sweep; "
    code += f"board = Board(Path({str(tmp_path / 'runs')!r}), 's'); "
    code += f"rows = sweep({jobs}, board, {script!r}, ['name'], [{{}}] * {n_jobs}); "
    code += f"sys.exit(ending(rows, {len(jobs)}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not all((tmp_path / file).exists() for file in waiting) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    return process.wait(120)


def test_a_signal_stops_the_job_and_the_sweep(tmp_path, script):
    jobs = [["name=s", "do=wait"], ["name=s", "do=well"]]
    assert stopped(tmp_path, script, jobs, ["waiting"], 1) == PREEMPTED
    assert statuses(tmp_path) == {"s/do-wait": "stopped"}
    assert (tmp_path / "ran.txt").read_text().split() == ["wait"], "the next job was not begun"


def test_a_job_that_is_stopped_by_itself_stops_the_sweep(tmp_path, script):
    """As where a node's end is near, and its scheduler tells the processes and not the sweep."""
    jobs = [["name=s", f"do={word}"] for word in ("well", "stop", "again")]
    assert sweep(jobs, tmp_path / "runs", script) == PREEMPTED
    assert statuses(tmp_path) == {"s/do-well": "finished", "s/do-stop": "stopped"}
    (tmp_path / "mended").touch()
    assert sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "stop", "stop", "again"]


# Several at once


def test_two_jobs_at_once_and_each_line_says_whose_it_is(tmp_path, script, capfd):
    """Each waits for the other."""
    jobs = [["name=s", f"do={word}"] for word in ("left", "raise", "right", "well")]
    assert sweep(jobs, tmp_path / "runs", script, n_jobs=3) == FAILED
    wanted = {"s/do-left": "finished", "s/do-raise": "failed", "s/do-right": "finished", "s/do-well": "finished"}
    assert statuses(tmp_path) == wanted and list(statuses(tmp_path)) == list(wanted), "in the order of the jobs"
    out, err = capfd.readouterr()
    assert {"[1] both are here", "[3] both are here"} <= set(out.splitlines())
    assert "[2] ValueError: the data is not there" in err.splitlines()
    assert sweep(jobs, tmp_path / "runs", script, n_jobs=3) == FAILED
    assert sorted((tmp_path / "ran.txt").read_text().split()) == sorted(["left", "raise", "right", "well", "raise"])


def test_by_default_one_at_a_time(tmp_path, script):
    assert sweep([["name=s", f"do={word}"] for word in ("first", "second")] * 3, tmp_path / "runs", script) == FINISHED


def test_a_signal_stops_all_jobs_that_run(tmp_path, script):
    jobs = [["name=s", f"do={word}"] for word in ("wait-a", "wait-b", "well")]
    assert stopped(tmp_path, script, jobs, ["waiting-a", "waiting-b"], 2) == PREEMPTED
    assert statuses(tmp_path) == {"s/do-wait-a": "stopped", "s/do-wait-b": "stopped"}
    assert sorted((tmp_path / "ran.txt").read_text().split()) == ["wait-a", "wait-b"]


@pytest.mark.parametrize(
    ("codes", "jobs", "wanted"),
    [
        *(([0, 0], 2, FINISHED), ([0, 1], 2, FAILED), ([0, 3, -9], 3, FAILED), ([0, 76], 2, FINISHED)),
        *(([0, 75, 1], 3, PREEMPTED), ([0], 2, PREEMPTED), ([], 1, PREEMPTED)),
    ],
)
def test_a_sweep_ends_as_its_jobs_do(codes, jobs, wanted):
    """One whose last jobs were not begun was stopped, however the others ended."""
    assert ending([{"code": code} for code in codes], jobs) == wanted


# The names of runs


NAMES = [
    *(["seed=0", "diffusion=ddpm"], ["seed=1", "diffusion=ddpm"], ["seed=1", "diffusion=flow"]),
    *(
        ["++data.root=D/a/b"],
        ["++data.root=D/a-b"],
        ["++data.root=D/a_b"],
        ["++data.root='D/a b'"],
        ["++data.root='D/a,b'"],
    ),
    *(
        ["++x.y=-1"],
        ["++x.y=1"],
        ["++x.y=[1,2]"],
        ["++x.y=[12]"],
        ["++x.y=''"],
        ["++x.y=Grüße"],
        ["++x.y=" + "long" * 99],
    ),
    *(
        ["stage@second=none"],
        ["diffusion/sampler=ddim"],
        ["++x.y=" + "long" * 98],
        ["a=1_b-2", "b=3"],
        ["a=1", "b=2_b-3"],
    ),
]


def test_every_job_has_a_name_of_its_own_that_needs_no_quotes():
    labels = [job_name(["name=s", *words], {"name"}) for words in NAMES]
    assert len(set(labels)) == len(NAMES)
    assert labels[:3] == ["seed-0_diffusion-ddpm", "seed-1_diffusion-ddpm", "seed-1_diffusion-flow"]
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,140}", each) for each in labels)


def test_what_all_jobs_share_is_in_no_name():
    words = ["name=s", "++first.steps=3", "seed=1", "~callback", "stage@second=none", "stage@first=first"]
    assert job_name(words, {"name", "first.steps", "callback", "stage@first"}) == "seed-1_stage.second-none"
    assert job_name(words[:2], {"name", "first.steps"}) == "only"


def test_two_folders_of_like_names_are_two_runs(tmp_path, script):
    jobs = [["name=s", "do=well", f"++data.root={root}"] for root in ("D/a/b", "D/a-b")]
    assert sweep(jobs, tmp_path / "runs", script) == FINISHED
    assert len(statuses(tmp_path)) == 2 and (tmp_path / "ran.txt").read_text().split() == ["well"] * 2


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["x", "ConfigError: a", "  b", "(HYDRA_FULL_ERROR=1 shows the traceback)"], "ConfigError: a b"),
        (
            ["Could not override 'x'.", "", "Set the environment variable HYDRA_FULL_ERROR=1 for"],
            "Could not override 'x'.",
        ),
        (
            ["ValueError: in a worker", "  whose word it is", "KeyError: for which it ended"],
            "KeyError: for which it ended",
        ),
        (["reading", "a word without a name"], "a word without a name"),
        ([], "it left no word"),
    ],
)
def test_what_was_wrong_is_the_error_and_not_what_is_said_after_it(said, wanted):
    assert error_of(deque(said)) == wanted


def test_the_table_at_80_columns_cuts_nothing_away(tmp_path, script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    roots = ["D/" + "deep/" * 12 + end for end in ("a", "b")]
    jobs = [["name=s", "do=well", f"++data.root={root}"] for root in roots]
    labels = [job_name(words, {"name", "do"}) for words in jobs]
    for label in labels:
        numbers = [Record(metric=f"a_metric_of_a_long_name_{i}", value=i + 0.125) for i in range(4)]
        write(tmp_path / "runs" / "s" / label / "records.jsonl", *numbers)
    sweep(jobs, tmp_path / "runs", script)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in "│┃"]
    cells = ["".join(column) for column in zip(*rows, strict=True)]
    assert all(label in cells[0] for label in labels), "what differs is whole"
    assert all(f"a_metric_of_a_long_name_{i}{i + 0.125:.4g}" in cells[-1].replace(" ", "") for i in range(4))
