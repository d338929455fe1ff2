import json
import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm.data.coco import Coco
from ldm.data.image import decode
from ldm.data.module import DataModule


@pytest.fixture
def root(tmp_path):
    """Photographs 0 .. 9 with captions "<id> a", "<id> b", in two splits of five."""
    (tmp_path / "annotations").mkdir()
    for k, split in enumerate(("train2017", "val2017")):
        ids = range(5 * k, 5 * k + 5)
        (tmp_path / split).mkdir()
        for i in ids:
            Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / split / f"{i:012d}.jpg")
        annotations = [{"id": 2 * i + j, "image_id": i, "caption": f"{i} {c}"} for i in ids for j, c in enumerate("ab")]
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
        content = {"images": images, "annotations": annotations}
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return tmp_path


def edit(root, change):
    file = root / "annotations" / "captions_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_items(root):
    source = Coco(root)
    assert len(source) == 5 and source[3]["image"] == root / "train2017/000000000003.jpg"
    assert source[3]["caption"] == ["3 a", "3 b"] and source.facts(3) == {k: source[3][k] for k in ("caption", "name")}
    assert [c for own in source.captions() for c in own] == [f"{i} {c}" for i in range(5) for c in "ab"]


def test_splits_are_read_together(root):
    whole = Coco(root, ("train2017", "val2017"))
    assert [whole[i]["caption"][0] for i in range(10)] == [f"{i} a" for i in range(10)]


def test_missing_layout_says_what_is_expected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"root/train2017/\*\.jpg and root/annotations/captions_train2017\.json"
    ):
        Coco(tmp_path)


def test_damaged_annotations_are_named(root):
    (root / "annotations/captions_train2017.json").write_text("{")
    with pytest.raises(ValueError, match=r"captions_train2017\.json: not a COCO caption file"):
        Coco(root)


def test_annotation_without_photograph(root, caplog):
    (root / "train2017/000000000002.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 5 annotated photographs are not there, more than max_absent=0\.01"
    ):
        Coco(root)
    with caplog.at_level(logging.WARNING):
        source = Coco(root, max_absent=0.2)
    assert len(source) == 4 and source.absent == 1 and "1 of 5 annotated photographs" in caplog.text


def test_columns_are_what_there_is(root):
    assert Coco(root).columns == {"caption"}
    edit(root, lambda c: c.update(annotations=[]))
    assert Coco(root).columns == frozenset()


@pytest.mark.parametrize("caption, kind", [({"en": "a cat"}, "dict"), (7, "int")])
def test_captions_that_are_no_text_are_told_at_the_start(root, caption, kind):
    """Not after the first stage, when the captions are first read."""
    edit(root, lambda c: [entry.update(caption=caption) for entry in c["annotations"]])
    with pytest.raises(ValueError, match=rf"data\.train: the captions are of type {kind}, as .*; wanted text"):
        DataModule(Coco(root), Coco(root, ("val2017",)), (3, 8, 8), 2, workers=0)


@pytest.mark.parametrize("name", ["br[ack]et", "it's #1 (a, b) = c", "Grüße 雪"])
def test_places_with_odd_names(root, name, tmp_path_factory):
    place = tmp_path_factory.mktemp("places") / name
    shutil.copytree(root, place)
    source = Coco(place)
    assert len(source) == 5 and decode(source[3]["image"]).size == (9, 9)


def test_home_is_expanded(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert Coco(Path("~") / root.name)[0]["image"].parent == root / "train2017"


def test_annotations_with_a_byte_order_mark(root):
    file = root / "annotations" / "captions_train2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(Coco(root)) == 5


def test_photograph_without_caption(root):
    edit(root, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 2]))
    source = Coco(root)
    assert len(source) == 5 and source.uncaptioned == 1 and source[2]["caption"] == []


def test_fingerprint_is_of_the_content(root, tmp_path_factory):
    before = Coco(root).fingerprint
    copy = tmp_path_factory.mktemp("elsewhere") / "copy with spaces é"
    shutil.copytree(root, copy)
    assert Coco(copy).fingerprint == before
    edit(copy, lambda c: c["annotations"][0].update(caption="another"))
    assert Coco(copy).fingerprint != before
    (root / "train2017/000000000002.jpg").write_bytes(b"shorter")
    assert Coco(root).fingerprint != before
