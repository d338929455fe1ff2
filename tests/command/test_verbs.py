"""One command with verbs, of which the scripts are other names; what it answers may be read in part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.__main__ import VERBS, main
from tests.runs import words_of
from tests.test_layers import ROOT

MODULE = ["-m", "ldm"]


def run(*words: str, cwd: Path = ROOT, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "300", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("verb", ["train", "sample", "evaluate"])
def test_help_says_the_command_as_it_was_called(verb):
    by_script, by_module = run(f"{verb}.py", "--help").stdout, run(*MODULE, verb, "--help").stdout
    assert f"  python {verb}.py " in by_script and f"ldm {verb}" not in by_script
    assert f"  ldm {verb} " in by_module and ".py " not in by_module
    assert by_module.split() == by_script.replace(f"python {verb}.py", f"ldm {verb}").split()


def test_all_verbs_are_told(capsys):
    assert main(["--help"]) == main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said and does.__doc__ in " ".join(said.split()) for verb, does in VERBS.items())


def test_help_is_as_wide_as_the_terminal_and_a_verb(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["help"]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
    with pytest.raises(SystemExit) as ended:
        main(["help", "store"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ldm store")


def test_no_such_verb(capsys):
    assert main(["trian", "seed=1"]) == 2
    assert capsys.readouterr().err.startswith("ldm: trian: no such verb; did you mean train? There are train, sample,")


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--help"],
        ["train.py", "--help", "trainer"],
        ["train.py", "--cfg", "job"],
        ["train.py", "--info", "defaults"],
        ["sample.py", "--help"],
        ["evaluate.py", "-h"],
        [*MODULE, "--help"],
        [*MODULE, "store", "list", "--help"],
    ],
)
def test_a_reader_that_leaves_hears_no_complaint(words):
    """`ldm train --help | head`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(*words, stdout=writing).stderr == ""
    finally:
        os.close(writing)


SWEEP = """
import sys
from pathlib import Path
from ldm.command.board import Board
from ldm.command.sweep import ending, sweep
command = [sys.executable, "-c", "import sys"]
board = Board(Path(sys.argv[1]), "s")
rows = sweep([["seed=0"], ["seed=1"]], board, command)
board.show()
sys.exit(ending(rows, 2))
"""


def test_the_table_of_a_sweep_is_not_its_end(tmp_path):
    """Its exit code says how the jobs ended, whoever reads the table."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run("-c", SWEEP, str(tmp_path), stdout=writing)
    os.close(writing)
    assert done.returncode == 0 and "seed-1" in (tmp_path / "s" / "sweep.json").read_text()


def test_it_works_from_another_folder(tmp_path):
    done = run(*MODULE, "train", "prior=difusion", cwd=tmp_path)
    assert done.returncode == 1 and "did you mean diffusion?" in done.stderr
    said = run(*MODULE, "train", "--help", cwd=tmp_path).stdout
    assert all(word in said for word in words_of("diffusion/sampler"))


PROGRAM = """
import sys
from ldm.command.verbs import program
sys.argv = ["x", *sys.argv[2:]]
print(program()[1:])
"""


def test_a_process_knows_the_command_that_began_it(tmp_path):
    """Without its words, which a job of a sweep has of its own: flags of Python and the verb stay."""
    file = tmp_path / "x.py"
    file.write_text(PROGRAM)
    assert run("-X", "utf8", str(file), "train", "seed=1", "a b").stdout == f"{['-X', 'utf8', str(file), 'train']}\n"
    assert run("-X", "utf8", str(file), "train").stdout == f"{['-X', 'utf8', str(file), 'train']}\n"


def test_a_word_that_others_are_taken_from_has_what_they_take(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "data.image_shape=64"])
    with pytest.raises(SystemExit) as said:
        main(["train", "data.image_shape=64"])
    assert said.value.code.startswith("data.train.size: a word refers to another, in which there is no such thing: ")
    assert len(said.value.code.splitlines()) == 1


FLUSHED = """
import functools
import sys
from types import SimpleNamespace

import torch

import ldm.command.sample
import ldm.experiment.experiment
from ldm.__main__ import main


def arithmetic(**given):
    print("flushed" if (torch.full((4,), 1e-39) * 1.0).count_nonzero() == 0 else "as it was")


ldm.experiment.experiment.Experiment = lambda config, judge: SimpleNamespace(run=arithmetic)
ldm.command.sample.sample = functools.wraps(ldm.command.sample.sample)(arithmetic)
arithmetic()
main(sys.argv[1:])
"""


@pytest.mark.parametrize("words", [["train", "trainer=cpu"], ["sample", "run=absent"]], ids=lambda words: words[0])
def test_tiny_numbers_are_zero_where_a_verb_computes(words, tmp_path):
    (tmp_path / "x.py").write_text(FLUSHED)
    assert run(str(tmp_path / "x.py"), *words, cwd=tmp_path).stdout.split("\n")[:2] == ["as it was", "flushed"]
