"""Which GPUs jobs at once have."""

import sys

import pytest

from ldm.command.board import Board
from ldm.command.devices import parts, shares
from ldm.command.sweep import sweep


@pytest.mark.parametrize(
    ("there", "n_jobs", "asked", "wanted"),
    [
        ("0123", 2, 1, ["0", "1"]),
        ("0123", 2, 2, ["01", "23"]),
        ("0123", 2, "auto", ["01", "23"]),
        ("0123", 3, "auto", ["0", "1", "2"]),
        ("01", 3, 1, ["0", "1", "0"]),
        ("01", 2, 4, ["01", "01"]),
        ("0", 2, "auto", ["0", "0"]),
        ("", 2, 1, ["", ""]),
    ],
)
def test_each_job_has_what_it_asks_for_as_far_as_there_is(there, n_jobs, asked, wanted):
    assert ["".join(each) for each in parts(list(there), n_jobs, asked)] == wanted


def test_devices_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 5")
    assert shares(2, {"accelerator": "gpu", "devices": 1}) == [
        {"CUDA_VISIBLE_DEVICES": "GPU-a"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    assert shares(2, {"accelerator": "cpu", "devices": 1}) == [{}, {}] and shares(1, {"accelerator": "gpu"}) == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert shares(2, {"accelerator": "auto", "devices": 1}) == [{}, {}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in shares(2, {"accelerator": "auto", "devices": "auto"})] == [
        "0",
        "1",
    ]


# A job that waits until the other runs, too, so that both have a device at one time.
JOB = """
import os, pathlib, sys, time
place, words = pathlib.Path(__file__).parent, dict(word.split("=", 1) for word in sys.argv[1:])
(place / words["do"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
deadline = time.monotonic() + 20
while words["do"] != "c" and len(list(place.glob("[ab]"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
"""


def test_no_two_jobs_at_once_have_one_device(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    own = [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    jobs = [["name=s", f"do={word}"] for word in "abc"]
    sweep(jobs, Board(tmp_path / "runs", "s"), [sys.executable, str(tmp_path / "job.py")], ["name"], own)
    devices = [(tmp_path / word).read_text() for word in "abc"]
    assert sorted(devices[:2]) == ["3", "7"] and devices[2] in ("3", "7")
