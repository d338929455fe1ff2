"""Sweeps by launchers that are installed beside ours, each in a process as a user calls it; jobs are stand-ins."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.test_launcher import stripped

ROOT = Path(__file__).parents[2]

# Stands for train.py: a job is finished at once, with its seed doubled as a number, or fails where its seed is 9.
PROGRAM = """
import sys
from pathlib import Path
import hydra
from omegaconf import OmegaConf

def train(config):
    import os
    from ldm.files import write_json
    from ldm.run.directory import asked_for
    from ldm.run.record import Record, write
    run = Path(config["runs"]) / config["name"]
    run.mkdir(parents=True, exist_ok=True)
    if config["seed"] == 9:
        write_json(run / "run.json", {"status": "failed", "error": "ValueError: nine"})
        return 1
    write_json(run / "run.json", {"status": "finished", "asked": asked_for(config), "process": os.getpid()})
    write(run / "records.jsonl", Record(metric="psnr", value=2.0 * config["seed"]))
    return 0

def main(conf, words):
    from ldm.command.conclusion import concluded
    from ldm.command.job import job
    from ldm.command.launcher import prepared
    from ldm.command.words import heard

    sys.argv = [sys.argv[0], *prepared(heard(["-m", *words], Path(conf)), [sys.executable, __file__])]

    @hydra.main(config_path=conf, config_name="config", version_base="1.3")
    def run(config):
        return job(lambda words: OmegaConf.to_container(config, resolve=True), train)

    with concluded():
        run()

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
"""


@pytest.fixture
def sweep(tmp_path):
    """Runs a sweep by the name s; its exit code and what it said."""
    (tmp_path / "program.py").write_text(PROGRAM)
    metric = {"quality": {"_target_": "ldm.metric.reconstruction.ReconstructionQuality"}}
    conf = stripped(tmp_path / "conf", metric=metric)

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "program.py", str(conf), "runs=runs", "name=s", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        return done.returncode, done.stdout + done.stderr

    return run


def theirs(launcher: str) -> pytest.param:
    package = f"hydra_{launcher.partition('_')[0]}_launcher"
    there = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{package}")
    why = f"needs the package {package}: pip install -e '.[launchers]'"
    return pytest.param(launcher, marks=pytest.mark.skipif(not there, reason=why))


@pytest.mark.parametrize("launcher", [theirs("joblib")])
def test_a_sweep_by_another_launcher_ends_as_ours(sweep, tmp_path, launcher):
    """A failed job harms none, and the sweep ends with its table and report."""
    code, said = sweep("seed=1,9,2", f"hydra/launcher={launcher}")
    runs = tmp_path / "runs" / "s"
    facts = {run.name: json.loads((run / "run.json").read_text()) for run in runs.glob("seed-*")}
    wanted = {"seed-1": "finished", "seed-9": "failed", "seed-2": "finished"}
    assert {name: each["status"] for name, each in facts.items()} == wanted
    assert code == 1 and "s/seed-9 did not finish" in said
    assert "ValueError: nine" in said and "psnr 4" in said, "the table"
    assert "3 runs" in (runs / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("launcher", [theirs("submitit_local")])
def test_a_search_by_submitit(sweep, tmp_path, launcher):
    """Two trials at once, each a process that submitit begins."""
    pytest.importorskip("optuna", reason="a search needs Optuna: pip install -e '.[optuna]'")
    words = ("objective=psnr", "rank_timeout=int(interval(1,999))", "seed=4", "hydra/sweeper=optuna")
    code, said = sweep(*words, f"hydra/launcher={launcher}", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=2")
    assert code == 0, said
    found = json.loads((tmp_path / "runs" / "s" / "search.json").read_text())
    assert [trial["values"] for trial in found["trials"]] == [[8.0]] * 2
    jobs = [json.loads((tmp_path / "runs" / trial["runs"][0] / "run.json").read_text()) for trial in found["trials"]]
    assert len({each["process"] for each in jobs}) == 2
