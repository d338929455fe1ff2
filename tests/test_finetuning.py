"""Runs that begin from another run's weights: update 0 is the old run, the latents are those it knew, and the new run says from
what it was made."""

import json
import logging
import shutil

import pytest
import torch
import yaml

from ldm.build import build
from ldm.command.grammar import settable
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run import record
from ldm.run.checkpoint import Checkpoints
from ldm.run.signals import FINISHED, PREEMPTED
from ldm.stage.latents import weights_key
from ldm.stage.stage import Stage
from ldm.tensors import read_tensors
from tests.runs import tiny

pytestmark = pytest.mark.usefixtures("unchecked_file")

OTHER_DATA = "data.train.seed=9"  # other images of the same kind


def config(folder, *words, steps=4, name="run"):
    made = tiny(folder, *map(settable, words), name=name, steps=steps)
    for stage in ("first", "second"):
        if made[stage]:
            made[stage] |= {"picture_every": 0, "validate_every": 0}
            made[stage]["optimizer"]["lr"] = 1e-2  # averages are clearly others than the last weights
    made["metric"] = {"reconstruction": {"_target_": "ldm.metric.reconstruction.ReconstructionQuality"}}
    return made


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("old")
    assert Experiment(config(folder, name="old", steps=8)).run() == FINISHED
    return folder / "runs" / "old"


@pytest.fixture
def begun(monkeypatch):
    """What each stage of the runs of a test holds before its first update: its weights and their averages."""
    found, start = {}, Stage.on_fit_start

    def on_fit_start(stage):
        start(stage)
        for kind, tensors in (("raw", stage.trained().state_dict()), ("average", stage.average.named())):
            found[stage.name, kind] = {name: value.detach().clone() for name, value in tensors.items()}

    monkeypatch.setattr(Stage, "on_fit_start", on_fit_start)
    return found


def given(old, *more):
    return (f"autoencoder.checkpoint={old}", f"prior.checkpoint={old}", *more)


def weights(folder, name="run"):
    return read_tensors(folder / "runs" / name / "model" / "raw.safetensors")


@pytest.mark.parametrize(("kind", "file"), [("average", "model"), ("raw", "raw")])
def test_update_0_is_the_old_run(old, tmp_path, begun, kind, file):
    assert Experiment(config(tmp_path, *given(old), f"prior.weights={kind}", OTHER_DATA)).run() == FINISHED
    theirs = read_tensors(old / "model" / f"{file}.safetensors")
    wanted = {name: value for name, value in theirs.items() if not name.startswith("autoencoder.")}
    assert "condition._extra_state" in wanted, "the tokenizer is not learnt from the new captions"
    assert begun["second", "raw"].keys() == wanted.keys()
    assert all(torch.equal(begun["second", "raw"][name], value) for name, value in wanted.items())
    assert all(torch.equal(value, wanted[name]) for name, value in begun["second", "average"].items())
    made = weights(tmp_path)
    apart = [name for name in begun["second", "average"] if not torch.equal(made[name], theirs[name])]
    assert len(apart) > 0.9 * len(begun["second", "average"]), "and is trained on from there"
    assert torch.equal(made["condition._extra_state"], theirs["condition._extra_state"])
    for name in ("autoencoder.latent_mean", "autoencoder.latent_std"):
        assert torch.equal(made[name], theirs[name]), "latents have the scale that the prior knows"


def test_a_run_says_what_it_was_made_from(old, tmp_path, caplog):
    assert Experiment(config(tmp_path, *given(old), OTHER_DATA)).run() == FINISHED
    assert "here they are of another" not in caplog.text
    run, [before, *_] = tmp_path / "runs" / "run", record.read(old / "records.jsonl")
    said = f"prior {before.model} (average)"
    assert {each.begun_from for each in record.read(run / "records.jsonl")} == {said} and before.begun_from is None
    model = LatentModel.load(run)
    assert model.made_from["begun_from"] == said == json.loads((run / "run.json").read_text())["begun_from"]
    settings = model.made_from["second"][0]["settings"]["prior"]
    assert (settings["checkpoint"], settings["weights"], settings["statistics"]) == (
        before.model,
        "average",
        "checkpoint",
    )
    assert "checkpoint" not in model.config["prior"], "a finished model needs no other"
    prior = yaml.safe_load((run / "config.yaml").read_text())["prior"]
    assert (prior["checkpoint"], prior["weights"], prior["statistics"]) == (str(old), "average", "checkpoint")
    assert said in (run / "report.html").read_text()


@torch.no_grad()
def test_statistics_of_the_new_data_by_a_word(old, tmp_path):
    made = config(tmp_path, *given(old), OTHER_DATA, "prior.statistics=data")
    assert Experiment(made).run() == FINISHED
    model = LatentModel.load(tmp_path / "runs" / "run")
    images = build(made["data"], "data").items("train", list(range(16)))["image"]
    posterior = model.autoencoder.posterior(images)
    mean, second = posterior.mean.double(), (posterior.mean**2 + posterior.std**2).double()
    mean = mean.mean((0, 2, 3))
    torch.testing.assert_close(model.autoencoder.latent_mean.double(), mean, rtol=1e-3, atol=1e-3)
    std = (second.mean((0, 2, 3)) - mean**2).sqrt()
    torch.testing.assert_close(model.autoencoder.latent_std.double(), std, rtol=1e-3, atol=1e-3)
    assert not torch.equal(model.autoencoder.latent_std, LatentModel.load(old).autoencoder.latent_std)


def test_a_stopped_run_goes_on_from_its_own_weights(old, tmp_path, monkeypatch):
    """To the bit; the checkpoint's are not put in again."""
    ends = Stage.on_train_batch_end

    def stop(stage, *arguments):
        stage.stop.raised = stage.updates == 2
        ends(stage, *arguments)

    words = (*given(old), OTHER_DATA, "first.steps=3", "autoencoder.train=true")
    assert Experiment(config(tmp_path, *words, name="whole")).run() == FINISHED
    monkeypatch.setattr(Stage, "on_train_batch_end", stop)
    cut = config(tmp_path, *words, name="cut") | {"store": str(tmp_path / "another")}
    assert [Experiment(cut).run() for _ in range(3)] == [PREEMPTED, PREEMPTED, FINISHED]
    whole = weights(tmp_path, "whole")
    assert all(torch.equal(value, whole[name]) for name, value in weights(tmp_path, "cut").items())


def test_another_checkpoint_of_the_same_name_is_refused(old, tmp_path, monkeypatch):
    place = tmp_path / "checkpoint"
    shutil.copytree(old / "model", place / "model")
    made = config(tmp_path, f"autoencoder.checkpoint={old}", f"prior.checkpoint={place}")
    assert Experiment(made).run() == FINISHED
    moved = tmp_path / "moved"
    shutil.copytree(place, moved)
    made["prior"]["checkpoint"] = str(moved)
    assert Experiment(made).run() == FINISHED, "the same weights in another place are the same"
    model = LatentModel.load(moved)
    before = model.weights_hash
    with torch.no_grad():
        next(model.prior.parameters()).add_(1)
    model.save(moved / "model", model.config)
    with pytest.raises(
        ConfigError, match=rf"prior\.checkpoint={model.weights_hash} \(was {before}\).*second\.again=true"
    ):
        Experiment(made).run()
    made["second"]["again"] = True
    assert Experiment(made).run() == FINISHED
    assert record.read(tmp_path / "runs/run/records.jsonl")[-1].begun_from == f"prior {model.weights_hash} (average)"


def test_a_first_stage_is_trained_on(old, tmp_path, begun, caplog):
    made = config(tmp_path, *given(old), "autoencoder.train=true", OTHER_DATA)
    with caplog.at_level(logging.WARNING):
        assert Experiment(made).run() == FINISHED
    theirs = LatentModel.load(old).autoencoder
    own, run = begun["first", "raw"], tmp_path / "runs" / "run"
    compared = [name for name in theirs.state_dict() if not name.startswith("latent_")]
    assert len(compared) > 20
    assert all(torch.equal(own[f"autoencoder.{name}"], theirs.state_dict()[name]) for name in compared)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in begun["first", "average"].items())
    model = LatentModel.load(run)
    assert Checkpoints(run / "checkpoints" / "first").load()[0] == 4
    assert weights_key(model.autoencoder) != weights_key(theirs), "and is another now"
    assert "and here they are of another" in caplog.text, "which its prior does not know"
    assert not torch.equal(model.autoencoder.latent_std, theirs.latent_std)
    first = model.made_from["first"][0]["settings"]
    assert first["autoencoder"]["checkpoint"] == weights_key(theirs)
    hashes = f"autoencoder {weights_key(theirs)}, prior {LatentModel.load(old).weights_hash} (average)"
    assert model.made_from["begun_from"] == hashes
    said = yaml.safe_load((run / "config.yaml").read_text())["autoencoder"]
    assert (said["checkpoint"], said["train"]) == (str(old), True)
    assert Experiment(config(tmp_path, OTHER_DATA, "prior=normal", name="plain")).run() == FINISHED
    assert len(list((tmp_path / "store" / "autoencoder").glob("*/artifact.json"))) == 2, "it is no drawn one's"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("autoencoder.train=true",), ConfigError, r"autoencoder\.train says what becomes of .*which is not given"),
        (
            ("autoencoder.checkpoint=OLD", "autoencoder.train=3"),
            ConfigError,
            r"autoencoder\.train: Input should be a valid bool",
        ),
        (
            ("prior.checkpoint=OLD", "backbone.width=4"),
            ConfigError,
            r"another network: .*prior\.backbone\.width=4 \(was 8\)",
        ),
        (
            ("prior.checkpoint=nowhere",),
            FileNotFoundError,
            "nowhere has no config.json: give a finished run's directory",
        ),
        (("prior.weights=raw",), ConfigError, r"prior\.weights is of a prior that begins from prior\.checkpoint=RUN"),
    ],
)
def test_what_cannot_be_is_told_before_a_directory_is_made(old, tmp_path, words, error, said):
    with pytest.raises(error, match=said):
        Experiment(config(tmp_path, *(word.replace("OLD", str(old)) for word in words))).run()
    assert not (tmp_path / "runs").exists()


def test_a_first_stage_that_nothing_trains_is_not_trained_on(old, tmp_path):
    made = config(tmp_path, f"autoencoder.checkpoint={old}", "autoencoder.train=true") | {"first": {}}
    with pytest.raises(ConfigError, match="stage@first=none trains none: leave one out"):
        Experiment(made)
