"""Installed from a wheel, away from the checkout, with a plugin beside it: experiments/plugin/ as its README says."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml

from tests.test_layers import ROOT

SMALL = ["trainer=cpu", "logger=none", "data=dots", "data.train.count=16", "data.val.count=6", "data.batch_size=8"]
SMALL += ["data.workers=0", "autoencoder=identity", "stage@first=none", "second.steps=2", "evaluation.samples=4"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with both packages installed, as `pip install` does it, without a network."""
    importlib.import_module("hatchling")  # of the extra `test`; pip would say less
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*pip, *build, str(ROOT), str(ROOT / "experiments" / "plugin")], check=True)
    install = ["install", "--no-deps", "--no-index", "--target", str(site), *map(str, wheels.glob("*.whl"))]
    subprocess.run([*pip, *install], check=True)
    return site


@pytest.fixture(scope="module")
def ldm(site, tmp_path_factory):
    """The console command, run in an empty folder."""
    here = tmp_path_factory.mktemp("here")

    def run(*words: str) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in os.environ.items() if key != "LDM_PLUGINS"}
        environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "500", "WANDB_MODE": "offline"}
        command = [str(site / "bin" / "ldm"), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=250, check=False, cwd=here, env=environment
        )

    run.here = here
    return run


@pytest.fixture(scope="module")
def trained(ldm) -> Path:
    """Two updates of the plugin's network on its data, measured by its metric."""
    words = ["backbone=two_layers", "metric=brightness", "condition.depth=1", "prior.steps=2", "name=dots"]
    done = ldm("train", *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return ldm.here / "runs" / "dots"


def test_the_wheel_holds_the_words_and_the_licence(site):
    held, own = site / "ldm" / "conf", ROOT / "conf"
    files = {file.relative_to(own) for file in own.rglob("*.yaml")}
    assert {file.relative_to(held) for file in held.rglob("*.yaml")} == files
    assert all((held / file).read_bytes() == (own / file).read_bytes() for file in files)
    facts = Distribution.at(next(site.glob("ldm-*.dist-info")))
    assert facts.metadata["License-Expression"] == "MIT"
    assert "The ldm authors" in next(site.glob("ldm-*.dist-info/**/LICENSE")).read_text()
    assert not (site / "tests").exists() and not (site / "conf").exists()


def test_help_knows_the_plugins_words(ldm):
    said = ldm("train", "--help").stdout
    for group, word in (("backbone", "two_layers"), ("data", "dots"), ("prior", "diagonal"), ("metric", "brightness")):
        assert any(line.startswith(f"  {group}: ") and word in line for line in said.splitlines()), group
    assert "ldm train -m" in said and "python train.py" not in said
    said = ldm("train", "--help", "backbone=two_layers").stdout
    assert "backbone.width: PositiveInt = 32   (here 32)\n    channels of the hidden map." in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbone=two_layer"], "backbone=two_layer: no such backbone; did you mean two_layers?"),
        (["backbone=two_layers", "backbone.widht=3"], "TwoLayers has no such argument; did you mean width?"),
        (["data=dots", "data.train.count=0"], "data.train.count: Input should be greater than 0; got 0"),
        (["prior=diagonl"], "prior=diagonl: no such prior; did you mean diagonal?"),
        (["plugins=mynet"], "plugin mynet: there is no such package; did you mean mynets?"),
    ],
)
def test_a_misspelt_word_is_told(ldm, words, said):
    done = ldm("train", *words)
    assert done.returncode == 1 and said in done.stderr, done.stdout + done.stderr


def test_a_run_of_the_plugins_parts(trained):
    assert json.loads((trained / "model" / "config.json").read_text())["plugins"] == {"mynets": "0.1.0"}
    assert yaml.safe_load((trained / "config.yaml").read_text())["plugins"] == ["mynets"]
    told = json.loads((trained / "run.json").read_text())
    assert (told["code_version"], told["plugins"]) == ("0.1.0", {"mynets": "0.1.0"})
    records = [json.loads(line) for line in (trained / "records.jsonl").read_text().splitlines()]
    assert [(each["metric"], each["n"]) for each in records] == [("brightness", 4)]


def test_its_model_is_loaded_by_who_names_the_plugin(ldm, trained):
    refused = ldm("sample", f"run={trained}", "n=1")
    assert refused.returncode == 1 and "needs the plugin mynets 0.1.0" in refused.stderr
    done = ldm("sample", f"run={trained}", "n=1", "prompt=a large dot", "plugins=mynets", "out=made")
    assert done.returncode == 0 and (ldm.here / "made" / "0000.png").exists(), done.stderr


def test_a_sweep_and_its_ranks_have_the_plugin(ldm):
    """The jobs and the ranks are processes of their own, begun by the console command."""
    words = ["prior=diagonal", "condition=none", "metric=none", "trainer.devices=2", "seed=3", "name=sweep"]
    done = ldm("train", "-m", *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (ldm.here / "runs" / "sweep").glob("*/run.json")
    assert json.loads(run.read_text())["status"] == "finished"
    weights = json.loads((run.parent / "model" / "config.json").read_text())
    assert weights["prior"] == {"_target_": "mynets.prior.Diagonal"}
