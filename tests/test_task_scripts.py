"""The scripts that measure tasks (experiments/tasks): what they make and count, worked out by hand."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from experiments.tasks import augmented, edits, other_data, scores
from ldm.data.shapes import ATTRIBUTES, Shapes, parse
from ldm.metric.shapes.attributes import to_image


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """{train,test}.parquet of grey images of 8 pixels: image i is of class i mod 3 and brightness 80 (i mod 3)."""
    folder = tmp_path_factory.mktemp("data")
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "grey", "light"])})
    for split, count in (("train", 60), ("test", 30)):
        images = [PIL.Image.fromarray(np.full((8, 8), 80 * (i % 3), np.uint8)) for i in range(count)]
        columns = {"image": images, "label": [i % 3 for i in range(count)]}
        Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_class_is_left_out_of_both_splits(data, tmp_path):
    other_data.main(["without", str(data), str(tmp_path), "grey"])
    for split, count in (("train", 40), ("test", 20)):
        found = other_data.read(tmp_path, split)
        assert sorted(found["label"]) == [0] * (count // 2) + [2] * (count // 2)
        assert found.features["label"].names == ["dark", "grey", "light"]
    values = {
        name: {np.array(PIL.Image.open(file)).max() for file in (tmp_path / name).iterdir()}
        for name in ("known", "strange")
    }
    assert values == {"known": {0, 160}, "strange": {80}}
    assert len(list((tmp_path / "known").iterdir())) == 20 and len(list((tmp_path / "strange").iterdir())) == 10
    with pytest.raises(SystemExit, match="blue: no class of .*, which has dark, grey, light"):
        other_data.main(["without", str(data), str(tmp_path / "no"), "blue"])


def test_a_share_of_pixels_is_replaced_by_any_value(data, tmp_path):
    """Of 256 values one is the one that stood there, so .25 of the pixels are drawn and .249 differ; labels stay."""
    other_data.main(["spoilt", str(data), str(tmp_path), "0.25"])
    before, after = other_data.read(data, "train"), other_data.read(tmp_path, "train")
    assert before["label"] == after["label"]
    pixels = [np.stack([np.array(image) for image in each["image"]]) for each in (before, after)]
    changed = pixels[0] != pixels[1]
    assert abs(changed.mean() - 0.25 * 255 / 256) < 4 * (0.25 * 0.75 / changed.size) ** 0.5
    assert abs(pixels[1][changed].mean() - 127.5) < 4 * 73.9 / changed.sum() ** 0.5
    with pytest.raises(SystemExit, match="between 0 and 1"):
        other_data.main(["spoilt", str(data), str(tmp_path), "25"])


def test_half_of_a_batch_is_of_either_set():
    few, many = (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])), (torch.ones(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
    pixels, labels = augmented.half_each(few, many)
    assert (
        labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 2, 0, 1]
        and pixels.flatten(1).mean(1).tolist() == [0.0] * 5 + [1.0] * 5
    )


def test_a_classifier_of_real_images_and_one_of_samples_that_lie(data, tmp_path, monkeypatch, capsys):
    """Samples whose labels are each the next class make a classifier that is always wrong."""
    monkeypatch.setattr(augmented, "_UPDATES", 60)
    lines = []
    for i in range(6):
        PIL.Image.fromarray(np.full((8, 8), 80 * (i % 3), np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "label": ["grey", "light", "dark"][i % 3]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    augmented.main(data, 50, tmp_path, [0])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "30 real images, 6 samples, 30 test images, 60 updates"
    assert said[1] == "50 %: real alone: 100.00 % right" and said[3] == "50 %: samples alone: 0.00 % right"


def test_each_caption_changes_one_attribute_in_its_turn():
    old, generator = Shapes(20, "test")[3]["caption"], torch.Generator().manual_seed(0)
    for row in range(10):
        name, new = edits.other_caption(old, row, generator)
        before, after = parse(old), parse(new)
        assert name == list(ATTRIBUTES)[row % 5] and before[name] != after[name]
        assert {each for each in ATTRIBUTES if before[each] != after[each]} == {name}


class Reader:
    """Reads what it was told that images show."""

    def __init__(self, attributes):
        self.attributes = attributes

    def read(self, x):
        return {name: torch.tensor([each[name] for each in self.attributes]) for name in ATTRIBUTES}


def test_shares_of_edits_by_hand(capsys):
    """Five scenes, each attribute changed in its turn; the first two edits obey, the first also loses its place."""
    items, generator = [Shapes(5, "test")[i] for i in range(5)], torch.Generator().manual_seed(1)
    old = [item["caption"] for item in items]
    new = [edits.other_caption(each, i, generator) for i, each in enumerate(old)]
    shown = [parse(new[i][1] if i < 2 else old[i]) for i in range(5)]
    shown[0]["place"] = (shown[0]["place"] + 1) % 9
    x = to_image(torch.stack([torch.from_numpy(item["image"]) for item in items]))
    edits.report("as they were", x, x, old, new, Reader(shown))
    assert capsys.readouterr().out.startswith("| as they were | 0.40 ± 0.24 | 0.95 ± 0.05 | 1.00 ± nan |")


@pytest.mark.parametrize("row", range(6))
def test_the_pixels_of_a_shape_are_those_that_were_rendered(row):
    item = Shapes(6, "test", 64)[row]
    found = edits.shape_of(to_image(torch.from_numpy(item["image"])[None]))[0].float().mean().item()
    least, most = ((0.125, 0.145), (0.2, 0.225))[parse(item["caption"])["size"]]
    area = {"circle": np.pi, "square": (2 * 0.92) ** 2, "triangle": 1.32**2 * 3**1.5 / 4, "star": None}
    kind = list(area)[parse(item["caption"])["shape"]]
    if kind == "star":
        assert 0.8 * least**2 < found < np.pi * (1.36 * most) ** 2
    else:
        assert 0.9 * area[kind] * least**2 < found < 1.15 * area[kind] * most**2


def test_scores_are_drawn_from_what_the_task_wrote(tmp_path):
    rows = [{"row": i, "name": str(i), "nll": float(i)} for i in range(6)]
    areas = {"auroc": {"nll": {"value": 0.75, "standard_error": 0.125}}}
    (tmp_path / "result.json").write_text(json.dumps({"images": {"n": 4}, "found": areas, "rows": rows}))
    given, others, area = scores.scores(tmp_path, "nll")
    assert given.tolist() == [0, 1, 2, 3] and others.tolist() == [4, 5] and area == "0.750 ± 0.125"
    with pytest.raises(SystemExit, match="no area of ratio; there are nll"):
        scores.scores(tmp_path, "ratio")
    scores.main(tmp_path / "a.png", [f"{tmp_path}=nll,nll"])
    assert PIL.Image.open(tmp_path / "a.png").size == (520, 240)
