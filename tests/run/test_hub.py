"""A model goes to a server of the hub's layout on this machine, and comes back to another process by its name alone."""

import os
import subprocess
import sys

import pytest
import yaml

from ldm.model import LatentModel
from ldm.run import hub, record
from ldm.run.record import Record
from tests.hub_server import serving
from tests.runs import saved, tiny
from tests.test_layers import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a number of its weights and one of others."""
    folder = tmp_path_factory.mktemp("run")
    saved(folder, tiny(folder))
    own = LatentModel.load(folder).weights_hash
    numbers = {"psnr": (20.5, own), "fid": (9.0, "others")}
    found = [Record(metric=name, value=value, n=7, model=model, config="a") for name, (value, model) in numbers.items()]
    record.write(folder / "records.jsonl", *found)
    return folder


def test_a_card_says_what_the_hub_reads_and_the_numbers_of_these_weights(run, tmp_path):
    model = LatentModel.load(run)
    hub.write(model, run, "me/mine", tmp_path)
    text = (tmp_path / "README.md").read_text()
    _, head, page = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert (facts["library_name"], facts["pipeline_tag"]) == ("ldm", "text-to-image")
    assert 'ldm.load("me/mine")' in page and 'captions=["..."]' in page and "conditioned on caption" in page
    assert "| `psnr` | 20.5 | 7 |" in page and "fid" not in page
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "records.jsonl",
    ]
    assert LatentModel.load(tmp_path).weights_hash == model.weights_hash
    assert "No number" in hub.card(model, [], "me/mine")


SCRIPT = """
import sys, ldm
model = ldm.load(sys.argv[1])
assert model.push_to_hub("me/mine").endswith("/me/mine")
again = ldm.load("me/mine")
print(again.model.weights_hash == model.model.weights_hash)
try:
    ldm.load("me/other")
except FileNotFoundError as error:
    print(error)
"""


def test_there_and_back(run, tmp_path):
    with serving() as (address, held):
        env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"}
        env |= {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT, str(run)]
        done = subprocess.run(command, env=os.environ | env, text=True, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "True"
    assert "me/other: there is no such run here, and the hub does not give it" in done.stdout
    assert set(held.files["me/mine"]) == {"README.md", "config.json", "model.safetensors", "records.jsonl"}
    assert held.private["me/mine"], "what nobody said was to be public is not"


def test_what_is_no_run_and_no_name_is_told(run, tmp_path):
    for wrong in ("absent", "a/b/c", f"{tmp_path}/x"):
        with pytest.raises(FileNotFoundError, match="there is no such run, and a name on the hub is USER/NAME"):
            hub.located(wrong)
    with pytest.raises(ValueError, match="revision=v1 is of a name on the hub"):
        hub.located(tmp_path, "v1")
    with pytest.raises(ValueError, match="mine: wanted a name on the hub, USER/NAME"):
        hub.push(LatentModel.load(run), None, "mine", True, "", None)
