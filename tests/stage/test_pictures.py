"""When pictures are drawn, of which examples, and that training is what it is without them."""

import json

import torch

from ldm.callback.pictures import Pictures, words
from ldm.logger.sink import Sink
from tests.runs import equal
from tests.stage.tiny import data, fit, result, second


class Sheet(Sink):
    """Keeps what a logger is given."""

    def __init__(self):
        self.given = []

    def open(self, folder, name, config):
        pass

    def scalars(self, stage, images, values):
        pass

    def conclude(self, records, report):
        pass

    def close(self, code):
        pass

    def picture(self, stage, images, name, picture):
        self.given.append((stage, images, name))


def test_pictures_come_at_their_updates_and_change_nothing(tmp_path):
    options = {"steps": 5, "accumulate": 2, "picture_every": 2, "dropout": 0.2}
    plain = fit(second(**options), tmp_path / "plain")
    stage, sheet = second(**options), Sheet()
    drawn = Pictures(tmp_path / "samples", stage.model, data(), [sheet], count=3)
    fit(stage, tmp_path / "drawn", drawn)
    assert equal(result(stage), result(plain))
    assert sheet.given == [("second", 8, "samples"), ("second", 16, "samples"), ("second", 20, "samples")]
    files = sorted(file.name for file in (tmp_path / "samples").glob("*.json"))
    assert files == [f"second-{step:07d}.json" for step in (2, 4, 5)]
    facts = json.loads((tmp_path / "samples" / files[0]).read_text())
    assert (facts["kind"], facts["stage"], facts["step"], facts["images"]) == ("samples", "second", 2, 8)
    assert [cell["row"] for cell in facts["cells"]] == ["generated"] * 3 + ["real"] * 3
    assert drawn.rows == [0, 2, 4], "spread over the five that are held out"


def test_pictures_are_drawn_without_dropout(tmp_path, monkeypatch):
    stage, modes = second(steps=2, picture_every=2, dropout=0.2), set()
    model, sample = stage.model, stage.model.sample

    def noted(*arguments):
        modes.update(module.training for module in model.modules())
        return sample(*arguments)

    monkeypatch.setattr(model, "sample", noted)
    fit(stage, tmp_path, Pictures(tmp_path / "samples", model, data(), [], count=2))
    assert modes == {False}


def test_none_are_drawn_unless_asked_for(tmp_path):
    stage = second(steps=2, picture_every=0)
    fit(stage, tmp_path, Pictures(tmp_path / "samples", stage.model, data(), []))
    assert not (tmp_path / "samples").exists()


def test_what_stands_under_an_image():
    """Its caption; of data without captions, whose batches hold empty ones, the name of its class."""
    labels = {"label": torch.tensor([1, 0])}
    assert words(labels | {"caption": ["a", ""]}, ("x", "y")) == ["a", ""]
    assert words(labels | {"caption": ["", ""]}, ("x", "y")) == ["y", "x"] == words(labels, ("x", "y"))
    assert words(labels | {"caption": ["", ""]}, ()) == ["1", "0"], "classes without names have their number"
    assert words({"label": torch.tensor([1, -1])}, ("x", "y")) == ["y", ""], "-1 is no class"
    assert words({"label": torch.tensor([-1, -1]), "caption": ["", ""]}, ("x",)) is None
