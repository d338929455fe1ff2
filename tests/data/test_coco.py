import json
import logging
import shutil

import pytest
from PIL import Image

from ldm.data.coco import Coco


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


def test_holding_out_splits_the_whole(root):
    parts = [Coco(root, ("train2017", "val2017"), every=3, held_out=held_out) for held_out in (False, True)]
    names = [{part[i]["name"] for i in range(len(part))} for part in parts]
    assert len(names[1]) == 4 and not names[0] & names[1] and len(names[0] | names[1]) == 10


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
