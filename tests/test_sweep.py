"""A sweep whose jobs fail in every way: the others finish, all is told, and the same command tries only the failed again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm.run.signals import FAILED, FINISHED, PREEMPTED
from ldm.sweep import sweep

ROOT = Path(__file__).parents[1]

# Stands for train.py: notes that it ran, and ends as its word says.
JOB = """
import os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
place = pathlib.Path(__file__).parent
with open(place / "ran.txt", "a") as file:
    file.write(words["do"] + "\\n")
mended = (place / "mended").exists()
if words["do"] == "raise" and not mended:
    sys.exit("ValueError: the data is not there")
if words["do"] == "oom" and not mended:
    os.kill(os.getpid(), signal.SIGKILL)
if words["do"] == "diverge" and not mended:
    sys.exit(3)
if words["do"] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (place / "waiting").touch()
    time.sleep(30)
"""


@pytest.fixture
def script(tmp_path) -> str:
    (tmp_path / "job.py").write_text(JOB)
    return str(tmp_path / "job.py")


def statuses(tmp_path, name="s") -> dict[str, str]:
    return {row["run"]: row["status"] for row in json.loads((tmp_path / "runs" / name / "sweep.json").read_text())}


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


def test_without_a_name_each_sweep_is_its_own(tmp_path, script):
    for _ in range(2):
        assert sweep([["do=well"], ["do=again"]], tmp_path / "runs", script) == FINISHED
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert (tmp_path / "ran.txt").read_text().split() == ["well", "again"] * 2


def test_a_signal_stops_the_job_and_the_sweep(tmp_path, script):
    jobs = [["name=s", "do=wait"], ["name=s", "do=well"]]
    code = "import sys; from pathlib import Path; from ldm.sweep import sweep; "
    code += f"sys.exit(sweep({jobs}, Path({str(tmp_path / 'runs')!r}), {script!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == PREEMPTED
    assert statuses(tmp_path) == {"s/do-wait": "stopped"}
    assert (tmp_path / "ran.txt").read_text().split() == ["wait"], "the next job was not begun"
