"""Samples of each class as a folder that a data set reads, each with where it is from."""

import json

import PIL.Image
import pytest
import torch

from ldm.command.apply import apply
from ldm.data.folder import Folder
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.augment import Augment
from tests.runs import compose, saved, tiny

ASKED = compose("run=absent", "task=augment", "task.n=2", "batch=3", "device=cpu", "steps=1", "seed=4", name="apply")


def test_an_imagefolder(tmp_path):
    config = tiny(tmp_path, "condition=label")
    config["condition"]["names"] = ["cat", "T-shirt/top"]
    run = saved(tmp_path / "run", config)
    apply(**ASKED | {"run": str(run), "out": str(tmp_path / "out")})
    place = tmp_path / "out" / "imagefolder"
    lines = [json.loads(line) for line in (place / "metadata.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["cat"] * 2 + ["T-shirt/top"] * 2
    assert [(line["seed"], line["row"]) for line in lines] == [(4, row) for row in range(4)]
    assert all(line["generated"] is True and (place / line["file_name"]).is_file() for line in lines)
    found = Folder(place, captions="none")
    assert found.classes == ("T-shirt-top", "cat") and len(found) == 4
    said = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["name"] for row in said["rows"]] == ["cat 0", "cat 1", "T-shirt/top 0", "T-shirt/top 1"]
    model = LatentModel.load(run)
    model.prior.steps = 1
    rows = torch.tensor([2])
    wanted = model.sample({"index": rows, "label": torch.tensor([1])}, Random(4, 0, rows))[0]
    shown = torch.tensor(list(PIL.Image.open(place / "T-shirt-top" / "00000.png").getdata())).view(32, 32, 3)
    assert (shown.permute(2, 0, 1) - (wanted + 1) * 127.5).abs().max() <= 1


def test_a_picture_has_some_of_every_class():
    assert Augment(8).shown(24, 6) == [0, 4, 8, 12, 16, 20] and Augment(2).shown(4, 24) == [0, 1, 2, 3]


def test_captions_are_of_sample(tmp_path):
    run = saved(tmp_path, tiny(tmp_path))
    with pytest.raises(
        ValueError, match="draws by class, and this model is conditioned on caption: .*ldm sample prompts=FILE"
    ):
        apply(**ASKED | {"run": str(run), "out": str(tmp_path / "out")})
