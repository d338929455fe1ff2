"""`ldm report` as it is typed."""

import subprocess
import sys

import pytest

from ldm.__main__ import main
from tests.report.runs import curves, record, run
from tests.test_start import ROOT

FILES = {"report.html", "report.md", "report.tex", "report.csv", "report.json"}


@pytest.fixture
def sweep(tmp_path):
    for name, words in (("ours", {}), ("theirs", {"prior___target_": "ldm.prior.glow.Glow"})):
        for seed in (0, 1, 2):
            run(tmp_path / "s" / f"{name}-{seed}", record(value=len(name) + 0.1 * seed), seed=seed, **words)
    return tmp_path / "s"


def test_it_writes_all_files_and_says_what_follows(sweep, tmp_path, capsys):
    assert main(["report", f"{sweep}/*", f"out={tmp_path / 'out'}", "compare=ours-0,Glow"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    said = capsys.readouterr().out
    assert "6 runs, 2 settings" in said and "Diffusion is better than Glow on 1" in said and "report.html" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no run was found"),
        (["{sweep}", "buy=prior"], "buy=: no such word; did you mean by?"),
        (["{sweep}", "--by=piror"], "by=piror: no run has such a setting; did you mean prior?"),
        (["{sweep}", "by=piror"], "by=piror: no run has such a setting; did you mean prior?"),
        (["{sweep}/ours-0", "by=foo"], "by=foo: no run has such a setting, and these runs differ in none"),
        (["{sweep}", "compare=Glow"], "two are compared"),
        (["{sweep}", "compare=Glow,Glou"], "did you mean Glow?"),
        (["{sweep}", "logger=paper"], "goes to wandb or to none"),
        (
            ["{sweep}", "compare=Glow,theirs-1"],
            "compare=Glow,theirs-1: both are the setting Glow, and two are compared",
        ),
        (["{sweep}", "out="], "out=: a folder is wanted, and nothing came"),
        (["{sweep}", "out={sweep}/ours-0/run.json"], "run.json is a file"),
        (["{sweep}", "out={sweep}/ours-0/run.json/x"], "run.json is a file"),
        (["{sweep}/ours-0/run.json"], "run.json: this is a file, and a run is a directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(sweep, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(word.format(sweep=sweep) for word in words)]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "report").exists()


def test_it_goes_to_wandb_where_asked(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["report", str(sweep), f"out={tmp_path / 'out'}", "logger=wandb"]) == 0
    [file] = (tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb")
    assert file.stat().st_size > 0
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*/files/media/html/report_*.html"))


def test_two_hundred_runs_take_little_memory_and_import_no_torch(tmp_path):
    for i in range(200):
        path = run(tmp_path / "s" / f"{i}", record(value=float(i)), seed=i % 5, second__optimizer__lr=i // 5 + 1)
        curves(path, *(1.0 / (k + 1) for k in range(20)))
    code = "import sys; from ldm.__main__ import main; code = main(sys.argv[1:]); status = open('/proc/self/status').read(); "
    code += "print(status.split('VmHWM:')[1].split()[0], 'torch' in sys.modules); sys.exit(code)"
    command = [sys.executable, "-c", code, "report", str(tmp_path / "s"), f"out={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    kilobytes, torch = done.stdout.split()[-2:]
    assert "200 runs, 40 settings" in done.stdout and int(kilobytes) < 300_000 and torch == "False"
