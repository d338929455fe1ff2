"""The studies of experiments/: what their run.sh says to type exists, and their tables say what records say.

Nothing is trained: PYTHON is a script here that writes down what it is told.
"""

import os
import subprocess
from pathlib import Path

import pytest

from experiments.autoencoders import table as autoencoders
from experiments.families import table as families
from experiments.likelihood import table as likelihood
from experiments.numbers import apart, cell, judged, numbers, runs_of
from experiments.vae_vs_diffusion import table as textbook
from ldm.command.compose import composed
from ldm.command.words import heard
from ldm.report.statistic import Number
from ldm.signature import PIECES, check
from tests.pieces import CONF
from tests.report.runs import record, run
from tests.test_pages import jobs

ROOT = Path(__file__).parents[1]
STUDIES = {
    "vae_vs_diffusion": {"PARTS": "little rates shapes"},
    "families": {"PARTS": "parameters"},
    "likelihood": {"DATASET": "fashion_mnist"},
    "autoencoders": {},
}
PLACES = ("name=", "runs=", "store=", "seed=")
STUB = """#!/bin/sh
for word in "$@"; do printf '%s\\037' "$word"; done >> "$TOLD"
echo >> "$TOLD"
[ "$2" != "$STOP" ] || exit 75
"""


def told(study: str, folder: Path, stop: str = "never", **more: str) -> tuple[int, list[list[str]]]:
    """The exit code of a study's run.sh, and the words of each command that it gave."""
    stub, log = folder / "python", folder / "told"
    stub.write_text(STUB)
    stub.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stub), "TOLD": str(log), "STOP": stop, **more}
    script = ROOT / "experiments" / study / "run.sh"
    words = ["sh", str(script), str(folder), str(folder / "runs"), "cpu_seconds=8", "0,1", "trainer=cpu"]
    (folder / "runs").mkdir()
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert "not found" not in done.stderr, done.stderr
    return done.returncode, [line.split("\x1f")[:-1] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("study", STUDIES)
def test_what_a_study_says_to_type_exists(study, tmp_path):
    code, commands = told(study, tmp_path, **STUDIES[study])
    sweeps = [words for words in commands if words[0] == "train.py"]
    assert code == 0 and len(sweeps) > 7
    assert commands[-2][:3] == ["-m", "ldm", "report"] and commands[-1][1] == f"experiments.{study}.table"
    seen = set()
    for words in sweeps:
        own = tuple(word for word in jobs(heard(words[1:], CONF, "config"))[0] if not word.startswith(PLACES))
        assert "logger=none" in own and "trainer=cpu" in own
        if own not in seen:
            seen.add(own)
            plain = composed(CONF, "config", own)
            check({key: value for key, value in plain.items() if key not in PIECES})


def test_a_study_that_is_stopped_stops_and_a_failed_sweep_does_not(tmp_path):
    code, commands = told("families", tmp_path, stop="-m", FAMILIES="normal gan")
    assert code == 75 and len(commands) == 1
    (tmp_path / "again").mkdir()
    code, commands = told("families", tmp_path / "again", FAMILIES="normal gan", PARTS="budget")
    assert code == 0 and [words[2] for words in commands[:2]] == ["name=budget/normal", "name=budget/gan"]


def test_cells_and_verdicts_by_hand(tmp_path):
    """Differences of 2.0, 2.2 and 2.4 deviate by 0.2, so the interval is 2.2 ± 4.303 x 0.2 / sqrt(3) and does not reach 0; those
    of 0.1, -0.1 and 0.1 do."""
    a = {0: Number(1.0, 0.1), 1: Number(1.2, 0.1), 2: Number(1.4, 0.1)}
    b = {0: Number(3.0, 0.1), 1: Number(3.4, 0.1), 2: Number(3.8, 0.1)}
    c = {0: Number(1.1, 0.1), 1: Number(1.1, 0.1), 2: Number(1.5, 0.1)}
    assert cell(a, "fd_x") == "1.20 ± 0.20"
    assert cell({0: a[0]}, "fd_x") == "1.00 (± 0.10)" and cell({}, "fd_x") == "not run"
    assert cell({0: Number(3462164.0)}, "training_flops") == "3.46 M"
    assert judged({"A": a, "B": b}, "fd_x") == "A" and judged({"A": a, "B": b}, "recall_x") == "B"
    assert judged({"A": a, "B": b, "C": c}, "fd_x") == "A, not told from C"
    assert judged({"A": a, "B": {}}, "fd_x") == "" and judged({"A": a, "B": b}, "no_such_number") == ""


def test_numbers_are_those_of_the_runs_own_way_of_sampling(tmp_path):
    own, fewer = {"prior": "diffusion", "steps": 10}, {"prior": "diffusion", "steps": 2}
    run(
        tmp_path / "s" / "seed-0",
        record("fd_x", 2.0, drawn=own),
        record("fd_x", 5.0, drawn=fewer),
        record("psnr", 20.0, drawn=None),
    )
    run(tmp_path / "s" / "seed-1", record("fd_x", 3.0, drawn=own), seed=1)
    run(tmp_path / "s" / "seed-2", record("fd_x", 9.0, drawn=own), seed=2, facts={"status": "training"})
    runs = runs_of(tmp_path / "s")
    assert {seed: each.value for seed, each in numbers(runs, "fd_x").items()} == {0: 2.0, 1: 3.0}
    assert {seed: each.value for seed, each in numbers(runs, "fd_x", steps=2).items()} == {0: 5.0}
    assert apart([runs], "fd_x") == []
    run(tmp_path / "t" / "seed-0", record("fd_x", 2.0, n=7, kind="bound"))
    assert apart([runs, runs_of(tmp_path / "t")], "fd_x") == ["kind", "n"], "which must not be compared"
    assert numbers(runs, "psnr")[0].value == 20.0 and not runs_of(tmp_path / "absent")


def test_the_textbooks_table(tmp_path):
    """Distances of two seeds a model; of a quarter of the budget the VAE alone reaches what all reach in the whole one."""
    drawn = {"prior": "diffusion", "steps": 10}
    for prefix, values in (
        ("", {"vae": 4.0, "latent": 6.0, "pixel": 8.0}),
        ("quarter-", {"vae": 7.0, "latent": 12.0, "pixel": 20.0}),
    ):
        for model, fd in values.items():
            for seed in (0, 1):
                seconds = record("training_seconds", 10.0 if prefix else 40.0, n=1, drawn=None)
                rate = record("samples_per_second", 100.0 if model == "vae" else 5.0, drawn=drawn)
                path = tmp_path / f"{prefix}{model}" / f"seed-{seed}"
                run(path, record("fd_classifier", fd + 0.01 * seed, drawn=drawn), seconds, rate, seed=seed)
    rows = {tuple(line.split(" | ")[:2]): line.split(" | ")[2:] for line in textbook.table(tmp_path).splitlines()}
    assert rows[("| Generation quality", "FD, classifier")][0] == "4.0050 ± 0.0071"
    assert rows[("| Generation quality", "FD, classifier")][-1] == "VAE |"
    assert rows[("| ", "seconds to FD 8, of two budgets")][:3] == ["10", "40", "40"]
    assert rows[("| Stability", "deviation of FD between seeds")][:3] == [
        f"{0.0070710678 / (v + 0.005):.1%}" for v in (4, 6, 8)
    ]
    assert rows[("| ", "images a second at the VAE's FD (4) or better")][:3] == ["100", "not reached", "not reached"]
    assert rows[("| Little data", "FD of 1 % of the images, the same cost")][:3] == ["not run"] * 3
    assert textbook.cifar(tmp_path) == ""
    run(tmp_path / "cifar-latent" / "seed-0", record("fd_classifier", 5.0, drawn=drawn))
    assert "| Generation quality | FD, classifier | not run | 5.000 (± 0.010) | not run |" in textbook.cifar(tmp_path)


def test_the_tables_of_families_first_stages_and_bits(tmp_path):
    for name, fd in {"gan": 5.0, "glow": 3.0}.items():
        for seed in (0, 1, 2):
            path = tmp_path / "families" / name / f"seed-{seed}"
            run(path, record("fd_classifier", fd + 0.1 * seed), record("samples_per_second", 10.0 * fd), seed=seed)
    found = families.families_in(tmp_path / "families")
    lines = families.table(found).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| glow", "| gan"] and "**3.10 ± 0.10**" in lines[2]
    families.plot(found, tmp_path / "pareto.svg")
    assert "gan" in (tmp_path / "pareto.svg").read_text() or (tmp_path / "pareto.svg").stat().st_size > 5000

    for prior, fd in {"pixelcnn": 7.0, "diffusion": 6.0}.items():
        run(
            tmp_path / "stages" / prior / "base" / "seed-0",
            record("fd_classifier", fd),
            record("psnr", 25.0, drawn=None),
        )
    assert (
        "| 4 channels, KL 1e-6 | 1 | 25.000 (± 0.010) |  |  |  | 6.000 (± 0.010) | 7.000 (± 0.010) |  |"
        in autoencoders.table(tmp_path / "stages")
    )

    bits = record(
        "bits_per_dim",
        1.2,
        kind="exact",
        n=256,
        drawn=None,
        parameters=226000,
        images_seen=40000,
        budget={"second": "60 s"},
    )
    run(tmp_path / "bits" / "pixelcnn" / "seed-0", bits, experiment="mnist_pixels_pixelcnn")
    worse = record("bits_per_dim", 1.4, kind="bound", n=1000, drawn=None, parameters=1)
    run(tmp_path / "bits" / "glow" / "seed-0", worse, experiment="mnist_pixels_glow")
    lines = likelihood.table(tmp_path / "bits").splitlines()
    assert lines[2] == "| PixelCNN | 1.200 (± 0.010) | exact |  | 256 | 1 | 226 k | 40k | 60 s | r |"
    assert lines[3].startswith("| Glow | 1.400")


def test_an_interval_of_two_seeds_is_wide():
    """t of one degree of freedom is 12.7, so 1 ± 12.7 x 0.141 / sqrt(2) holds 0."""
    a, b = {0: Number(1.0), 1: Number(1.0)}, {0: Number(1.9), 1: Number(2.1)}
    assert judged({"A": a, "B": b}, "fd_x") == "A, not told from B"
