"""Every complete run of conf/experiment, shrunk, from its data to its report, and once more, when nothing is left to do."""

import json
import logging
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from ldm.command.evaluate import measure_again
from ldm.experiment.experiment import Experiment
from ldm.metric.shapes import agreement, attributes
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run import record
from ldm.run.signals import FINISHED
from tests.runs import compose, refuse_training, saved, shrunk, tiny, words_of, write_coco, write_parquet


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A little data in the layout of each data set that is read from a folder."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "coco": write_coco(folder / "coco"),
        "caption": write_parquet(folder / "caption", label=False),
        "label": write_parquet(folder / "label", label=True),
        "grey": write_parquet(folder / "grey", label=True, mode="L"),
    }


@pytest.fixture(autouse=True)
def quick_checker(monkeypatch):
    """The reader of shapes, as good as untrained: whether it reads well is tests/metric's affair."""
    monkeypatch.setattr(attributes, "train_checker", partial(attributes.train_checker, steps=1, images=64))
    monkeypatch.setattr(agreement, "_CHECKED", 64)


ROOTS = {"emoji": "caption", "cifar10": "label", "fashion_mnist": "grey", "mnist": "grey"}
ROOTS |= {f"fashion_mnist_{word}": "grey" for word in ("gan", "ebm", "equilibrium")}


def config_of(name: str, roots: dict[str, Path], folder: Path) -> dict:
    words = [f"experiment={name}", "trainer=cpu", "logger=none"]
    if "coco" in name:
        words += [f"data.root={roots['coco']}", "data.image_shape=[3,64,64]"]
    elif name == "images":
        words += [f"data.root={roots['coco'] / 'train2017'}", "data.hold_out=0.3"]
    elif found := [kind for data, kind in ROOTS.items() if name.startswith(data)]:
        words += [f"data.root={roots[found[0]]}"]
        words += ["data.image_shape=[1,16,16]"] if name.startswith("mnist") else []
    else:
        words += ["data.train.count=16", "data.val.count=6"]
    config = shrunk(compose(*words), folder, name)
    if name in ("mnist_pixels", "mnist_pixels_cnf"):
        config["metric"].pop("bits_per_dim")  # hundreds of evaluations an image
    for stage in ("first", "second"):
        if config.get(stage):
            config[stage]["steps"] = 2
    if "consistency" in name:  # which goes on from a run of the plain one
        plain = config_of("fashion_mnist", roots, folder)
        plain["condition"]["classes"] = 10
        config["prior"]["checkpoint"] = str(saved(folder / "begun_from", plain))
    return config


def files_of(run: Path) -> dict[str, bytes]:
    """What a second call must leave as it is."""
    parts = ("checkpoints", "snapshots", "model", "samples", "records.jsonl", "metrics.jsonl", "config.yaml")
    files = [file for part in parts for file in ([run / part] if (run / part).is_file() else (run / part).rglob("*"))]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("name", words_of("experiment"))
def test_experiment(name, roots, tmp_path, monkeypatch):
    config = config_of(name, roots, tmp_path)
    assert Experiment(config).run() == FINISHED
    run, prior = tmp_path / "runs" / name, bool(config.get("second"))
    stages = {stage for stage in ("first", "second") if config.get(stage)}
    if config["prior"]["_target_"] == "ldm.prior.normal.Normal":
        stages.discard("second")  # there is nothing to learn

    assert yaml.safe_load((run / "config.yaml").read_text())["experiment"] == name
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    for stage in stages:
        assert sorted(each.name for each in (run / "checkpoints" / stage).iterdir()) == ["latest", "step-1", "step-2"]
        assert (run / "samples" / f"{stage}-0000002.png").exists()
    steps = [(row["stage"], row["step"]) for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert {(stage, step) for stage in stages for step in (1, 2)} <= set(steps)
    assert {stage for stage, _ in steps} == stages
    names = {each.metric for each in record.read(run / "records.jsonl")}
    assert "psnr" in names and ("fd_random_conv" in names) == prior and not any("fid" in each for each in names)
    report = (run / "report.html").read_text()
    assert name in report and not re.search(r"(src|href)=.https?:", report)
    assert "Traceback" not in (run / "log.txt").read_text() and not (run / "lock.json").exists()

    model = LatentModel.load(run)
    batch = {"index": torch.arange(2), "caption": ["a shape", ""], "label": torch.tensor([1, -1])}
    images = model.sample(batch, Random(0, 0, batch["index"]))
    assert images.shape == (2, *config["data"]["image_shape"]) and images.isfinite().all() and images.abs().max() <= 1

    before = files_of(run)
    refuse_training(monkeypatch)
    assert Experiment(config).run() == FINISHED
    assert files_of(run) == before


def test_the_first_weights_are_of_the_seed(tmp_path):
    made = Experiment(tiny(tmp_path, "seed=7"))
    made._prepare()
    torch.manual_seed(7)
    wanted = dict(LatentModel.build(made.config).named_parameters())
    assert all(torch.equal(found, wanted[name]) for name, found in made.model.named_parameters())


def test_both_stages_are_given_the_seed_and_the_second_latents_and_all_captions(tmp_path, monkeypatch, caplog):
    given, fit = {}, Experiment._fit

    def noted(self, stage, plan):
        given[stage.name] = stage.seed, "mean" in next(iter(self.data.loader(0, 1, 0, 1)))
        fit(self, stage, plan)

    monkeypatch.setattr(Experiment, "_fit", noted)
    with caplog.at_level(logging.INFO):
        assert Experiment(tiny(tmp_path, "seed=7", steps=1)).run() == FINISHED
    assert given == {"first": (7, False), "second": (7, True)}
    assert "tokens learnt from 16 captions" in caplog.text


def test_between_the_stages_the_first_is_frozen(tmp_path, monkeypatch):
    """So that neither statistics nor latents keep a graph, and dropout is over."""
    found, second = [], Experiment._second_stage

    def noted(self):
        autoencoder = self.model.autoencoder
        found.append((autoencoder.training, any(p.requires_grad for p in autoencoder.parameters())))
        second(self)

    monkeypatch.setattr(Experiment, "_second_stage", noted)
    assert Experiment(tiny(tmp_path, "prior=normal", steps=1)).run() == FINISHED
    assert found == [(False, False)]
    assert (tmp_path / "runs" / "run" / "samples" / "second-0000000.png").is_file(), "and its samples are shown"


def test_a_first_stage_is_trained_once(tmp_path, monkeypatch):
    """Another prior on the same data finds the first stage in the store. One without weights encodes no more than the moments ask
    for, which then are not of numbers that a cache has rounded to float16."""
    assert Experiment(tiny(tmp_path, name="one")).run() == FINISHED
    other = tiny(tmp_path, "prior=normal", name="other")
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*.safetensors")}
    refuse_training(monkeypatch)  # the normal prior has no parameters
    assert Experiment(other).run() == FINISHED
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*.safetensors")}
    first, second = (LatentModel.load(tmp_path / "runs" / name).autoencoder.state_dict() for name in ("one", "other"))
    for key in first:
        rounding = 1e-3 if key in ("latent_mean", "latent_std") else 0
        torch.testing.assert_close(first[key], second[key], rtol=rounding, atol=rounding)

    seeds = {"run": str(tmp_path / "runs" / "one"), "samples": 3, "guidance": 3.0, "steps": 3, "seed": 1}
    measure_again(**seeds, weights="raw", ema=None, device="cpu")
    measure_again(**seeds, weights="average", ema=0.08, device="cpu")
    found = record.read(tmp_path / "runs" / "one" / "records.jsonl")
    wanted = {("averaged", 5), ("raw", 3), ("averaged:0.08", 3)}
    assert {(each.weights, each.n) for each in found if each.metric == "psnr"} == wanted


def test_another_loss_is_another_first_stage(tmp_path):
    for weight, wanted in ((1e-6, 1), (1e-5, 2), (1e-6, 2)):
        config = tiny(tmp_path, "prior=normal", f"loss.kl_weight={weight}", name=None, steps=1)
        assert Experiment(config).run() == FINISHED
        assert len(list((tmp_path / "store" / "autoencoder").glob("*/artifact.json"))) == wanted
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_a_finished_run_is_a_first_stage_for_others(tmp_path, monkeypatch):
    assert Experiment(tiny(tmp_path, "prior=normal", name="one")).run() == FINISHED
    refuse_training(monkeypatch)
    checkpoint = tmp_path / "runs" / "one"
    other = tiny(tmp_path, "prior=normal", f"autoencoder.checkpoint={checkpoint}", "autoencoder=kl_f4", name="other")
    assert Experiment(other).run() == FINISHED
    first, second = (LatentModel.load(tmp_path / "runs" / name).autoencoder.state_dict() for name in ("one", "other"))
    assert all(torch.equal(first[key], second[key]) for key in first)
