"""benchmarks/gpu.sh: what is done is left alone, what fails harms nothing else, and one part is run for what it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands for Python: every benchmark says one line and notes that it ran; what the file `broken` names fails.
STUB = """#!/bin/bash
here=$(dirname "$0")
case $1 in
  -) exec {python} "$@" ;;
  benchmarks/photographs.py) mkdir -p "$2/annotations" && touch "$2/annotations/captions_val2017.json" && exit ;;
  train.py) echo "12:00:00 first stage 1/1 done loss 1.5" && echo "12:00:01 nothing of that" ;;
  *) echo "| $1 |" ;;
esac
echo "$*" >> "$here/ran.txt"
if [[ -f $here/broken ]] && grep -qF -- "$(cat "$here/broken")" <<< "$*"; then echo why >&2; exit 7; fi
"""


def gpu(folder: Path, python: str, *words: str) -> tuple[int, str]:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--dry", "--out", str(folder), *words]
    environment = os.environ | {"PYTHON": python}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def stub(tmp_path) -> str:
    file = tmp_path / "python"
    file.write_text(STUB.replace("{python}", sys.executable))
    file.chmod(0o755)
    return str(file)


def ran(tmp_path) -> list[str]:
    file = tmp_path / "ran.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_what_failed_is_tried_again_and_nothing_else(tmp_path, stub):
    (tmp_path / "broken").write_text("benchmarks/encode.py")
    code, said = gpu(tmp_path / "out", stub)
    count = len(ran(tmp_path))
    assert code == 1 and "encode: failed (exit code 7)" in said and f"{count - 1} of {count} parts" in said
    assert (tmp_path / "out" / "dry" / "encode.log").read_text() == "why\n"
    assert "encode.py" not in (tmp_path / "out" / "dry.md").read_text()
    (tmp_path / "broken").unlink()
    code, said = gpu(tmp_path / "out", stub)
    assert code == 0 and [line.split()[0] for line in ran(tmp_path)] == ["benchmarks/encode.py"]
    assert f"{count} of {count} parts" in said and "unet: there" in said


def test_the_page_says_on_what_and_by_what(tmp_path, stub):
    assert gpu(tmp_path / "out", stub)[0] == 0
    page = (tmp_path / "out" / "dry.md").read_text()
    for row in ("card", "commit", "python", "torch", "lightning", "diffusers"):
        assert re.search(rf"^\| {row} \| .+ \|$", page, re.MULTILINE), row
    assert "`python benchmarks/loop.py --experiment ldm_coco --waits" in page and "data.root=COCO" in page
    assert "    first stage 1/1 done loss 1.5\n" in page and "nothing of that" not in page
    assert "`two_stages small trainer.precision=bf16-mixed first.steps=1" in page
    assert str(tmp_path) not in page, "no path of this machine"


def test_a_stage_that_fails_is_a_part_that_fails(tmp_path, stub):
    (tmp_path / "broken").write_text("train.py experiment=ldm_coco_small")
    code, said = gpu(tmp_path / "out", stub, "--only", "stages")
    assert code == 1 and "stages: failed" in said and len(ran(tmp_path)) == 1


def test_a_part_is_run_for_what_it_is(tmp_path):
    code, said = gpu(tmp_path, sys.executable, "--only", "encode")
    assert code == 0, said
    assert re.search(r"\| decode, ldm \| \d+\.\d+ \| \d+\.\d+ \| \d+\.\d \|", (tmp_path / "dry.md").read_text())
