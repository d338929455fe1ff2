"""Held-out images that are training images too are noticed, whatever the set is read from."""

import numpy as np
import pytest
from PIL import Image

from ldm.data.folder import Folder
from ldm.data.hub import Hub
from ldm.data.module import DataModule
from ldm.data.shapes import Shapes
from ldm.data.source import Subset
from tests.data.sources import Numbers, png
from tests.data.test_module import Streamed


def overlap(train, val) -> str | None:
    return DataModule(train, val, (3, 8, 8), 4, workers=0).overlap()


def pictures(root, values) -> Folder:
    root.mkdir()
    for value in values:
        Image.new("L", (value, 3), value).save(root / f"{value}.png")
    return Folder(root)


def test_a_set_that_is_held_out_from_itself():
    assert overlap(Numbers(158), Numbers(158)) == (
        "158 of 158 sampled held-out images are also training images, byte for byte (compared with the 158 training images): "
        "validation measures memory"
    )


@pytest.mark.parametrize("common", [0, 1, 3])
def test_images_in_common_are_counted_under_any_name(common, tmp_path):
    train = pictures(tmp_path / "train", range(10, 30))
    val = pictures(tmp_path / "val", range(30 - common, 40))
    found = overlap(train, val)
    assert found is None if common == 0 else found.startswith(f"{common} of {10 + common} sampled held-out images")


def test_files_of_the_hub_by_their_bytes(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, values in (("train", range(40)), ("val", range(35, 60))):
        columns = {"image": [{"bytes": png(value), "path": None} for value in values]}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
        table.to_parquet(str(tmp_path / f"{name}.parquet"))
    train, val = (Hub(root=tmp_path, files=f"{name}.parquet") for name in ("train", "val"))
    assert overlap(train, val).startswith("5 of 25 sampled")
    assert overlap(Subset(train, range(35)), val) is None


def test_shapes_are_compared_by_what_makes_them(monkeypatch):
    monkeypatch.setattr("ldm.data.shapes.render", None)  # nothing is rendered to say that nothing is in common
    assert overlap(Shapes(50_000, "train"), Shapes(2048, "test")) is None
    monkeypatch.undo()
    assert overlap(Shapes(80, "train"), Shapes(40, "train")).startswith("40 of 40 sampled")


def test_of_very_many_images_a_sample_is_read():
    """256 of the held-out ones, 8192 of the training ones: of a set in itself, in another order, 8192 / 20000 of 256 are
    expected to be found, which is 105 with a standard deviation of 8."""
    read = []

    class Large(Numbers):
        def __init__(self, count: int, step: int):
            super().__init__(count)
            self.step = step

        def __getitem__(self, index):
            read.append(index)
            number = index * self.step % self.count
            return {"image": np.array([[number % 256, number // 256]], np.uint8)}

    data = DataModule(Large(20_000, 1), Large(20_000, 7919), (3, 8, 8), 4, workers=0)
    read.clear()
    found = data.overlap()
    assert (
        found is not None and "of 256 sampled" in found and "a sample of 8,192 of the 20,000 training images" in found
    )
    assert len(read) == 8192 + 256
    assert 70 < int(found.split()[0]) < 140


def test_a_held_out_share_has_nothing_in_common():
    assert DataModule(Numbers(250), None, (3, 8, 8), 4, workers=0, hold_out=0.2).overlap() is None


def test_what_cannot_be_compared_is_no_error(tmp_path):
    train, val = pictures(tmp_path / "train", range(10, 20)), pictures(tmp_path / "val", range(15, 20))
    (tmp_path / "train/15.png").unlink()
    (tmp_path / "val/16.png").unlink()
    assert overlap(train, val).startswith("3 of 5 sampled")
    assert overlap(Streamed(9), Numbers(9)) is None
