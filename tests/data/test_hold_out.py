"""A held-out share cut from any source: by what each item is called, so that it stays where it is when others come."""

import json
import math

import pytest
from PIL import Image

from ldm.data.coco import Coco
from ldm.data.folder import Folder
from ldm.data.hub import Hub
from ldm.data.module import DataModule
from ldm.data.shapes import Shapes
from ldm.data.split import held_out
from tests.data.sources import Numbers, png
from tests.data.test_module import Streamed


def module(train, val=None, **options) -> DataModule:
    return DataModule(train, val, (3, 8, 8), 4, workers=0, **options)


def names(source) -> list[str]:
    return [source.key(i) for i in range(len(source))]


def pictures(root, count: int) -> None:
    root.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (2, 2)).save(root / f"{i}.png")


def hub(root, count: int) -> Hub:
    import datasets

    root.mkdir(exist_ok=True)
    columns = {
        "image": [{"bytes": png(i % 256), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(root / "train.parquet"))
    return Hub(root=root, files="train.parquet", label="label")


def coco(root, count: int) -> Coco:
    pictures(root / "own", count) if root.is_dir() else (root.mkdir(), pictures(root / "own", count))
    (root / "annotations").mkdir(exist_ok=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)],
        "annotations": [{"image_id": i, "caption": f"number {i}"} for i in range(count)],
    }
    (root / "annotations" / "captions_own.json").write_text(json.dumps(content))
    return Coco(root, ("own",))


def folder(root, count: int) -> Folder:
    pictures(root, count)
    return Folder(root)


def shapes(root, count: int) -> Shapes:
    return Shapes(count, "train")


SOURCES = [folder, coco, hub, shapes]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("make", SOURCES)
def test_a_share_of_any_source(make, tmp_path):
    whole = make(tmp_path / "a", 300)
    data = module(whole, hold_out=0.2)
    train, val = data.sources["train"], data.sources["val"]
    assert sorted(names(train) + names(val)) == sorted(names(whole)) and not set(names(train)) & set(names(val))
    assert abs(len(val) - 60) < 4 * math.sqrt(300 * 0.2 * 0.8)
    assert (
        train.columns == val.columns == whole.columns and train.classes == val.classes == data.classes == whole.classes
    )
    row = names(whole).index(names(val)[1])
    assert data.items("val", [1])["image"].equal(module(whole, whole).items("val", [row])["image"])


@pytest.mark.parametrize("make", SOURCES)
def test_items_stay_on_their_side_when_others_come_and_wherever_they_lie(make, tmp_path):
    few, many = (held_out(make(tmp_path / place, count), 0.2) for place, count in (("a", 100), ("b", 150)))
    for before, after in zip(few, many, strict=True):
        assert set(names(before)) < set(names(after))
    assert names(few[1]) == names(held_out(make(tmp_path / "elsewhere", 100), 0.2)[1])


def test_a_larger_share_holds_the_smaller_one():
    parts = [set(names(held_out(Numbers(200), share)[1])) for share in (0.05, 0.1, 0.5)]
    assert parts[0] < parts[1] < parts[2]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_have_an_item(share):
    train, val = held_out(Numbers(2), share)
    assert len(train) == len(val) == 1


def test_one_image_cannot_be_cut():
    with pytest.raises(ValueError, match=r"data\.hold_out: a set of 1 items, 1 of them different, .*; give data\.val"):
        module(Numbers(1), hold_out=0.5)


def test_what_takes_the_place_of_the_held_out_set_is_said():
    with pytest.raises(ValueError, match=r"data\.hold_out=0\.1 and data\.val are both given"):
        module(Numbers(9), Numbers(3), hold_out=0.1)
    for share in (0.0, 1.0):
        with pytest.raises(
            ValueError, match=r"data\.val is not given and data\.hold_out=. holds .*data\.hold_out=0\.1"
        ):
            module(Numbers(9), hold_out=share)


def test_a_stream_has_no_rows_to_hold_out():
    with pytest.raises(ValueError, match=r"data\.hold_out: a stream .*data\.train\.streaming=false"):
        module(Streamed(9), hold_out=0.5)


def test_the_share_is_told_and_kept_with_latents_beside(caplog):
    """The parts have another name than the whole: what was made of one is not taken for the other's."""
    caplog.set_level("INFO")
    data = module(Numbers(100), hold_out=0.3)
    assert f"{len(data.sources['val'])} of 100 images are held out (data.hold_out=0.3)" in caplog.text
    prints = {source.fingerprint for source in (*data.sources.values(), Numbers(100))}
    assert len(prints) == 3 and data.fingerprint != module(Numbers(100), hold_out=0.4).fingerprint
