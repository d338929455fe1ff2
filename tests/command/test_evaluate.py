"""Measuring a finished run again by the words of training: data that have moved, other metrics, another evaluation."""

import logging
import shutil

import pytest
import torch
import yaml
from PIL import Image

from ldm.command.evaluate import _below, measure_again
from ldm.model import LatentModel
from ldm.run import record
from ldm.run.record import Record, say
from tests.runs import compose, saved, shrunk

ASKED = compose("run=absent", "samples=4", "device=cpu", name="evaluate")


@pytest.fixture
def run(tmp_path):
    """A run on a folder of two classes, with one number."""
    root = tmp_path / "old"
    for name, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (*colour[:2], colour[2] + i)).save(root / name / f"{i}.png")
    words = ["data=folder", f"data.root={root}", "data.image_shape=[3,32,32]", "condition=label", "condition.classes=2"]
    small = ["trainer=cpu", "logger=none", "metric=offline", "autoencoder=kl_f4_small", "backbone=unet_small"]
    config = shrunk(compose(*small, *words), tmp_path)
    config["data"]["hold_out"] = 0.5
    config["condition"]["names"] = ["cat", "dog"]
    return saved(tmp_path / "run", config)


def again(run, **words) -> list[Record]:
    before = record.read(run / "records.jsonl")
    measure_again(**ASKED | {"run": str(run)} | words)
    return record.read(run / "records.jsonl")[len(before) :]


def test_data_that_have_moved(run, tmp_path, caplog):
    first = again(run)
    shutil.move(tmp_path / "old", tmp_path / "new place")
    with pytest.raises(FileNotFoundError, match="data.root"):
        again(run)
    second = again(run, data={"root": str(tmp_path / "new place")})
    assert [(each.metric, each.value, each.data) for each in first] == [
        (each.metric, each.value, each.data) for each in second
    ]
    assert "not the data" not in caplog.text


def test_other_data_are_told_and_recorded(run, tmp_path, caplog):
    first = again(run)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "dog" / "0.png").unlink()
    second = again(run, data={"root": str(tmp_path / "new")})
    assert {each.data for each in first}.isdisjoint(each.data for each in second)
    assert "this is not the data" in caplog.text and "before" in caplog.text


def test_data_of_other_classes_are_refused(run, tmp_path):
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "dog").rename(tmp_path / "new" / "bird")
    with pytest.raises(ValueError, match="the data's classes are bird, cat, the model's cat, dog"):
        again(run, data={"root": str(tmp_path / "new")})


def test_metrics_and_evaluation_by_the_words_of_training(run):
    asked = compose("run=absent", "metric=offline", "++metric.distances=null", "++evaluation.batch=1", name="evaluate")
    found = again(run, metric={"reconstruction": asked["metric"]["reconstruction"]}, evaluation=asked["evaluation"])
    assert {each.metric for each in found} == {"psnr", "ssim"}
    names = {each.metric for each in again(run, metric={"reconstruction": None})}
    assert {"fd_random_conv", "kd_random_conv"} <= names and "psnr" not in names


def test_the_weights_measured_are_those_asked_for(run):
    model = LatentModel.load(run)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    model.save(run / "model", model.config, "raw")
    for weights, named in (("average", "averaged"), ("raw", "raw")):
        found = again(run, weights=weights)
        assert {(each.weights, each.model) for each in found} == {(named, LatentModel.load(run, weights).weights_hash)}
        assert len(found) > 2, "every number is kept"


def test_the_newest_number_is_said(caplog):
    with caplog.at_level(logging.INFO):
        say([Record(metric="psnr", value=value, n=4) for value in (1.0, 2.0)])
    assert [message.split() for message in caplog.messages] == [["psnr", "2", "(n", "=", "4)"]]


def test_samples_and_seed_are_the_runs_unless_said(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["evaluation"] |= {"samples": 3, "seed": 5}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    own, same, other = (again(run, samples=None, seed=seed) for seed in (None, 5, 0))
    assert {each.n for each in own} == {3}
    value = {each.metric: each.value for each in own}
    assert value == {each.metric: each.value for each in same}
    assert value["fd_random_conv"] != {each.metric: each.value for each in other}["fd_random_conv"]


@pytest.mark.parametrize(
    ("own", "old", "wanted"),
    [
        (
            {"root": "/d", "train": {"root": "/d", "files": "x"}},
            "/d",
            {"root": "/n", "train": {"root": "/n", "files": "x"}},
        ),
        ({"train": {"root": "/d/train", "name": "/da"}}, "/d", {"train": {"root": "/n/train", "name": "/da"}}),
        (
            {"root": None, "val": {"root": None, "path": None}},
            None,
            {"root": "/n", "val": {"root": "/n", "path": None}},
        ),
    ],
)
def test_what_was_below_the_old_root_is_below_the_new(own, old, wanted):
    assert _below(own, old, "/n") == wanted


def test_what_was_measured_so_before_is_left_alone(run, caplog):
    """By weights, metrics, number of samples and how they are drawn: what differs in one of them is measured."""
    first = again(run)
    with caplog.at_level(logging.INFO):
        assert first and again(run, missing=True) == []
    assert "was measured so before" in caplog.text
    assert (
        again(run, missing=True, samples=3)
        and again(run, missing=True, steps=1)
        and again(run, missing=True, weights="raw")
    )
    assert [again(run, missing=True, **more) for more in ({"samples": 3}, {"steps": 1}, {"weights": "raw"})] == [
        [],
        [],
        [],
    ]
    assert again(run), "and without the word once more"


def test_a_run_without_metrics_is_not_silently_left_unmeasured(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"metric": {}}))
    with pytest.raises(ValueError, match=r"was trained with metric=none, .*: name what is, as metric=offline"):
        again(run)


def test_words_for_a_metric_that_a_run_has_not_are_told(run):
    with pytest.raises(ValueError, match=r"metric\.path: these are words .*; it has \w+.*\. Choose .*metric=offline"):
        again(run, metric={"path": {"seed": 3}})
