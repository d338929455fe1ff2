"""Whatever lies in a run's directory is read, or left out and named."""

import json
import math
import os
import shutil
from dataclasses import asdict

import pytest

from ldm.report.collection import collect
from ldm.report.reading import NoRun, read
from tests.report.runs import config, record, run

LINE = json.dumps({key: value for key, value in asdict(record()).items() if value is not None})


def notes(path) -> str:
    return " | ".join(read(path, path.name).notes)


def test_a_run_is_read_as_it_is(tmp_path):
    found = read(run(tmp_path / "a", record("psnr", 20.0), record("fd_x", 3.0), seed=2), "a")
    assert [each.metric for each in found.records] == ["psnr", "fd_x"] and found.notes == ()
    assert found.settings["second.optimizer.lr"] == 0.001 and found.settings["seed"] == 2 and found.status == "finished"


def test_of_numbers_measured_again_the_newest_of_the_weights_of_now_counts(tmp_path):
    told = [
        record(value=1.0, config="old"),
        record(value=2.0, config="new"),
        record(value=3.0, config="new", date="2026-02-01"),
    ]
    assert [each.value for each in read(run(tmp_path / "a", *told), "a").records] == [3.0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (LINE[:40], "1 line of its records.jsonl left out: torn"),
        ('{"metric": "a", "value": 1, "flavour": 3}', "of another version, or changed by hand (flavour"),
        (LINE.replace("1.0", '"high"'), "of another version, or changed by hand (value"),
        (
            LINE.replace('"standard_error": 0.01', '"standard_error": -0.01'),
            "standard error of -0.01 cannot have been measured",
        ),
        (LINE.replace('"n": 100', '"n": 0'), "n = 0 cannot be"),
        (LINE.replace('"split"', '"seed": 7, "split"'), "it says seed 7, the config seed 0"),
        (LINE.replace("fd_x", "precision_x").replace("1.0", "1.2"), "1.2 is not between 0 and 1"),
        (LINE.replace("1.0", '"nan"'), "its fd_x is left out: it is nan"),
        ("[" * 100_000, "torn"),
        ("\xff\xfe", "torn"),
    ],
)
def test_a_line_that_is_no_number_is_left_out_and_told(tmp_path, line, said):
    path = run(tmp_path / "a", record("psnr", 20.0))
    with (path / "records.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert said in notes(path)
    assert [each.metric for each in read(path, "a").records] == ["psnr"]


def test_of_a_measuring_with_two_values_neither_is_believed(tmp_path):
    path = run(tmp_path / "a", record(value=1.0), record(value=0.5), record("psnr", 20.0))
    assert "one measuring has two values" in notes(path) and [r.metric for r in read(path, "a").records] == ["psnr"]


def test_what_is_half_written_or_absent_is_told(tmp_path):
    path = run(tmp_path / "a", record())
    (path / "run.json").write_text('{"name": "a", "sta')
    (path / "config.yaml").write_text("data: {a: [1, 2")
    assert "run.json cannot be read" in notes(path) and "config.yaml cannot be read" in notes(path)
    assert len(read(path, "a").records) == 1
    (path / "run.json").write_text("[1]")
    (path / "config.yaml").write_text("")
    assert "run.json cannot be read" in notes(path) and "config.yaml is empty" in notes(path)
    (path / "run.json").unlink()
    (path / "config.yaml").unlink()
    assert "no run.json" in notes(path) and "no config.yaml" in notes(path)
    assert "no number that can be read" in notes(run(tmp_path / "b"))
    assert "its status is diverged" in notes(run(tmp_path / "c", record(), facts={"status": "diverged"}))


def test_nothing_of_a_config_is_executed_or_blows_up(tmp_path):
    path, mark = run(tmp_path / "a", record()), tmp_path / "executed"
    (path / "config.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {mark}']\n")
    assert "config.yaml cannot be read" in notes(path) and not mark.exists()
    levels = "\n".join(f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 12))
    (path / "config.yaml").write_text(f"a0: &a0 {{k: 1}}\n{levels}\n")
    assert "config.yaml cannot be read" in notes(path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(NoRun, match="no such directory"):
        read(tmp_path / "absent", "absent")
    with pytest.raises(NoRun, match="neither run.json"):
        read(tmp_path, "empty")


def test_runs_are_found_by_paths_patterns_and_folders_once_each(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / "sweep" / name, record())
    (tmp_path / "sweep" / "other").mkdir()
    found = collect([str(tmp_path / "sweep" / "a"), str(tmp_path / "sweep" / "*"), str(tmp_path / "none*")])
    assert [each.name for each in found.runs] == ["a", "b"]
    said = {os.path.basename(name): why for name, why in found.left_out}
    assert "named twice" in said["a"] and "this is no run" in said["other"] and "nothing is there" in said["none*"]
    assert [each.name for each in collect([str(tmp_path / "sweep")]).runs] == ["a", "b"]


def test_a_copy_is_left_out_and_a_run_that_was_moved_is_read(tmp_path):
    first = run(tmp_path / "one" / "a", record(model="m"))
    shutil.copytree(first, tmp_path / "two" / "a")
    run(tmp_path / "two" / "b", record(model="n"))
    found = collect([str(first), str(tmp_path / "two")])
    assert [each.name for each in found.runs] == ["one/a", "b"]
    assert "a copy of it" in dict(found.left_out)["two/a"]
    moved = first.rename(tmp_path / "moved")
    assert read(moved, "moved").records[0].value == 1.0 and math.isfinite(config()["seed"])
