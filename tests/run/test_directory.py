"""A run directory belongs to one process; its curves are those of an uninterrupted run."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from ldm.run.directory import Journal, RunDirectory, RunTaken

HOLD = """
import sys, time
from pathlib import Path
from filelock import FileLock
root = Path(sys.argv[1])
root.mkdir(parents=True)
lock = FileLock(root / ".lock")
lock.acquire()
(root / "lock.json").write_text('{"host": "there", "pid": 7}')
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        (tmp_path / "a" / "metrics.jsonl").write_text("{}\n")
        with pytest.raises(RunTaken, match=r"being written by another process.*there.*7.*name="):
            RunDirectory.claim(tmp_path, "a", "custom")
        assert (tmp_path / "a" / "metrics.jsonl").read_text() == "{}\n"
        RunDirectory.claim(tmp_path, "b", "custom").release()
        first.kill()
        first.wait()
    run = RunDirectory.claim(tmp_path, "a", "custom")  # the kernel's lock went with its process
    assert json.loads((run.path / "lock.json").read_text())["pid"] != 7
    run.release()


def test_in_one_process_too(tmp_path):
    run = RunDirectory.claim(tmp_path, "a", "custom")
    with pytest.raises(RunTaken, match=f"{os.getpid()}"):
        RunDirectory.claim(tmp_path, "a", "custom")
    run.release()
    assert not (run.path / "lock.json").exists()
    RunDirectory.claim(tmp_path, "a", "custom").release()


def test_a_holder_that_cannot_be_read_is_no_crash(tmp_path):
    run = RunDirectory.claim(tmp_path, "a", "custom")
    for text in ("", "{", "not json"):
        (run.path / "lock.json").write_text(text)
        with pytest.raises(RunTaken, match=str(run.path)):
            RunDirectory.claim(tmp_path, "a", "custom")
    run.release()


def test_without_a_name_each_is_its_own(tmp_path):
    runs = [RunDirectory.claim(tmp_path / "new", None, "shapes") for _ in range(8)]
    assert len({run.path for run in runs}) == 8
    assert all(re.fullmatch(r"shapes-\d{8}-\d{6}-[0-9a-f]{4}", run.path.name) for run in runs)
    for run in runs:
        run.release()


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    """A file that is not whole has a hidden name with the number of its process, which is another each time."""
    run = tmp_path / "run"
    halves = [run / place / ".file.safetensors.17.tmp" for place in ("", "model", "samples", "snapshots/second")]
    whole = [half.with_name("file.safetensors") for half in halves]
    for file in halves + whole:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    RunDirectory.claim(tmp_path, "run", "e").release()
    assert not any(half.exists() for half in halves) and all(file.exists() for file in whole)


def test_an_unlucky_name_is_drawn_again(tmp_path, monkeypatch):
    drawn = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("ldm.run.directory.secrets.token_hex", lambda _: next(drawn))
    monkeypatch.setattr("ldm.run.directory.time.strftime", lambda _: "now")
    names = [RunDirectory.claim(tmp_path, None, "x").path.name for _ in range(2)]
    assert names == ["x-now-aaaa", "x-now-bbbb"]


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"a: no run directory can be made there.*runs="):
        RunDirectory.claim(tmp_path, "a", "custom")
    with pytest.raises(OSError, match=r"no run directory can be made there \(Not a directory\)"):
        RunDirectory.claim(tmp_path / "a", None, "custom")


def test_many_at_once_get_one_owner(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {sys.path[0]!r})
from pathlib import Path
from ldm.run.directory import RunDirectory, RunTaken
import time
try:
    run = RunDirectory.claim(Path({str(tmp_path)!r}), "same", "x")
    time.sleep(2)
    run.release()
except RunTaken:
    sys.exit(5)
"""
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    codes = [each.wait(timeout=280) for each in started]
    assert 0 in codes and set(codes) <= {0, 5}


def written(path, *rows) -> Journal:
    journal = Journal(path)
    for stage, step in rows:
        journal.write(stage, step, step * 4, time.monotonic(), {"loss": 1 / step})
    return journal


def test_the_journal_keeps_what_it_is_told(tmp_path):
    journal = written(tmp_path / "m.jsonl", ("first", 1), ("first", 2), ("second", 1))
    assert [(row["stage"], row["step"], row["images"], row["loss"]) for row in journal.rows()] == [
        ("first", 1, 4, 1.0),
        ("first", 2, 8, 0.5),
        ("second", 1, 4, 1.0),
    ]
    assert journal.images_seen("first") == 8 and journal.images_seen("third") == 0
    assert Journal(tmp_path / "none").rows() == []


def test_rewind_drops_what_came_after_and_what_was_torn(tmp_path):
    journal = written(tmp_path / "m.jsonl", ("first", 5), ("first", 10), ("first", 15), ("second", 20))
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write('{"stage": "first", "step": 1')
    journal.rewind("first", 10)
    assert [(row["stage"], row["step"]) for row in journal.rows()] == [("first", 5), ("first", 10), ("second", 20)]
    journal.write("first", 15, 60, 1.0, {"loss": 2.0})
    assert journal.rows()[-1]["loss"] == 2.0 and len(journal.rows()) == 4
    journal.rewind("second", 0)
    assert {row["stage"] for row in journal.rows()} == {"first"}


@pytest.mark.parametrize(
    "torn", ['{"stage": "first", "st', '{"stage": "first", "values": {}', "\x00\x00\x00", '{"a": 1}}', "3", "null"]
)
def test_a_torn_line_is_not_read(tmp_path, torn):
    journal = written(tmp_path / "m.jsonl", ("first", 1))
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write(torn)
    assert [row["step"] for row in journal.rows()] == [1]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_its_curve_anew(tmp_path):
    journal = written(tmp_path / "m.jsonl", ("first", 1), ("first", 2))
    journal.rewind("first", 0)
    assert journal.rows() == []
