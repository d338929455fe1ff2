"""What the data contradict is told before the first update, and leaves no directory; classes are read from the data."""

import pytest
import yaml
from PIL import Image

from ldm.data.shapes import LABELS
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run.signals import FINISHED
from tests.runs import refuse_training, tiny


@pytest.fixture
def photographs(tmp_path):
    """Eight pictures without labels or captions."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (32, 32), (i * 20, 90, 200)).save(folder / f"{i}.png")
    return [
        {"_target_": "ldm.data.folder.Folder", "root": str(folder)},
        {"hold_out": 0.5, "val": None, "image_shape": [3, 32, 32]},
    ]


def on(config, photographs):
    source, more = photographs
    return config | {"data": {**config["data"], "train": source, **more}}


def refused(config, match, tmp_path, monkeypatch):
    refuse_training(monkeypatch)
    with pytest.raises((ConfigError, ValueError), match=match):
        Experiment(config).run()
    assert not (tmp_path / "runs").exists()


def test_classes_and_their_names_come_from_the_data(tmp_path):
    config = tiny(tmp_path, "condition=label", "prior=normal", steps=1)
    assert config["condition"].get("classes") is None
    assert Experiment(config).run() == FINISHED
    condition = LatentModel.load(tmp_path / "runs" / "run").condition
    assert condition.names == LABELS and condition.classes == len(LABELS) == 28
    written = yaml.safe_load((tmp_path / "runs" / "run" / "config.yaml").read_text())
    assert written["condition"]["classes"] == 28 and tuple(written["condition"]["names"]) == LABELS


def test_more_classes_than_the_data_have_are_room(tmp_path):
    config = tiny(tmp_path, "condition=label", "condition.classes=30", "prior=normal", steps=1)
    assert Experiment(config).run() == FINISHED
    condition = LatentModel.load(tmp_path / "runs" / "run").condition
    assert condition.classes == 30 and condition.names == ()


def test_fewer_classes_than_the_data_have_are_refused(tmp_path, monkeypatch):
    config = tiny(tmp_path, "condition=label", "condition.classes=27")
    refused(config, r"condition\.classes=27, but the data has 28 classes \(red circle", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("condition", "match"),
    [("label", "the data has none.*condition=none"), ("text", "reads each image's caption and data.train has none")],
)
def test_a_condition_that_the_data_lack_is_refused(condition, match, photographs, tmp_path, monkeypatch):
    refused(on(tiny(tmp_path, f"condition={condition}"), photographs), match, tmp_path, monkeypatch)


def test_a_metric_that_reads_captions_of_shapes_is_refused_without(photographs, tmp_path, monkeypatch):
    config = on(tiny(tmp_path, "condition=none", "metric=attributes"), photographs)
    refused(config, r"metric\.\w+ reads each image's caption and data\.val has none", tmp_path, monkeypatch)


def test_captions_that_a_metric_cannot_read_are_refused(photographs, tmp_path, monkeypatch):
    config = on(tiny(tmp_path, "condition=none", "metric=attributes"), photographs)
    config["data"]["train"]["captions"] = "text"
    for i in range(8):
        (tmp_path / "photographs" / f"{i}.txt").write_text("a dog")
    refused(config, r"metric\.\w+: .*a dog", tmp_path, monkeypatch)


def test_sides_that_do_not_divide_are_told_in_pixels(photographs, tmp_path, monkeypatch):
    config = on(tiny(tmp_path, "condition=none", "autoencoder=kl_f8"), photographs)
    config["autoencoder"]["image_shape"] = config["data"]["image_shape"] = [3, 28, 28]
    refused(config, "28x28.*24 or 32", tmp_path, monkeypatch)


def test_classes_of_a_label_within_a_condition_come_from_the_data(tmp_path):
    words = ("condition=masked", "condition@condition.of=label", "prior=cnf")
    experiment = Experiment(tiny(tmp_path, *words))
    experiment._prepare()
    label = experiment.model.condition.of
    assert label.names == LABELS and label.classes == len(LABELS)
    with pytest.raises(ConfigError, match=r"condition\.of\.classes=2, but the data has 28 classes"):
        Experiment(tiny(tmp_path, *words, "condition.of.classes=2"))._prepare()
