"""Sources of every kind that `datasets` reads, all local."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ldm.data.hub import Hub
from ldm.data.module import DataModule
from tests.data.sources import png


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def parquet(folder, values, name="train.parquet", **columns):
    folder.mkdir(exist_ok=True)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    rows = {"image": [{"bytes": png(v) if v >= 0 else b"<html>", "path": None} for v in values]}
    rows |= {"label": [abs(v) % 2 for v in values], "text": [f"number {v}" for v in values]} | columns
    features |= {
        k: datasets.Value("string" if isinstance(rows[k][0], str) else "int64") for k in rows.keys() - features
    }
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(folder / name)
    return folder


def grey(item):
    return int(np.asarray(Image.open(io.BytesIO(item["image"])))[0, 0, 0])


def test_local_parquet(tmp_path):
    source = Hub(
        "ignored/name",
        root=parquet(tmp_path / "d", range(5)),
        files="train.parquet",
        label="label",
        caption=("caption", "text"),
    )
    assert len(source) == 5 and source.classes == ("even", "odd")
    assert grey(source[3]) == 3 and source[3]["label"] == 1 and source[3]["caption"] == "number 3"
    assert source.facts(3) == {k: v for k, v in source[3].items() if k != "image"}
    assert list(source.captions()) == [f"number {i}" for i in range(5)]


def test_rows_of_one_image_are_put_together(tmp_path):
    root = parquet(tmp_path / "d", [7, 8, 7, 9, 8], photo=[7, 8, 7, 9, 8], words=list("abcde"))
    source = Hub(root=root, files="*.parquet", caption="words", group="photo")
    assert [(grey(source[i]), source[i]["caption"]) for i in range(3)] == [(7, ["a", "c"]), (8, ["b", "e"]), (9, ["d"])]
    assert sorted(source.captions()) == list("abcde")


def test_a_damaged_image_is_one_bad_item(tmp_path):
    source = Hub(root=parquet(tmp_path / "d", [1, -2, 3]), files="*.parquet")
    data = DataModule(source, source, (3, 8, 8), 3, workers=0, max_bad=0.5)
    (batch,) = data.loader(0, 1)
    assert sorted(batch["index"].tolist()) == [0, 2, 2] and data.counts()["train bad"] == 1


def test_folder_of_images(tmp_path):
    for kind, value in (("cat", 1), ("dog", 2)):
        (tmp_path / "set/train" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / "set/train" / kind / "x.png")
    source = Hub(root=tmp_path / "set", label="label")
    assert source.classes == ("cat", "dog")
    assert DataModule(source, source, (3, 8, 8), 2, workers=0).items("train", [1])["image"].mean() == pytest.approx(
        2 / 127.5 - 1
    )


def tar(path, values):
    with tarfile.open(path, "w") as file:
        for value in values:
            for ending, content in (
                ("png", png(value)),
                ("txt", f"number {value}".encode()),
                ("json", json.dumps({"v": value}).encode()),
            ):
                entry = tarfile.TarInfo(f"{value:04d}.{ending}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset(tmp_path, streaming):
    for k in range(2):
        tar(tmp_path / f"train-{k}.tar", range(8 * k, 8 * k + 8))
    source = Hub(root=tmp_path, files="train-*.tar", builder="webdataset", caption="txt", streaming=streaming)
    data = DataModule(
        source, Hub(root=tmp_path, files="train-0.tar", builder="webdataset", caption="txt"), (3, 8, 8), 16, workers=0
    )
    (batch,) = data.loader(0, 1)
    values = ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert sorted(values) == list(range(16)) and batch["caption"] == [f"number {v}" for v in values]


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_streams_share_the_rows_among_ranks_and_workers(tmp_path, files, workers):
    for k in range(files):
        parquet(tmp_path / "d", range(32 * k // files, 32 * (k + 1) // files), f"train-{k}.parquet")
    source = Hub(root=tmp_path / "d", files="train-*.parquet", caption="text", streaming=True, buffer=8)
    val = Hub(root=tmp_path / "d", files="train-0.parquet")

    def captions(start, stop, rank):
        data = DataModule(source, val, (3, 8, 8), 4, workers=workers)
        return [b["caption"] for b in data.loader(start, stop, rank, 2)]

    whole = [captions(0, 16, rank) for rank in range(2)]
    first = [c for rank in whole for batch in rank[:8] for c in batch]
    assert Counter(first) == Counter(f"number {i}" for i in range(32))
    assert [c for rank in whole for batch in rank[8:] for c in batch] != first  # the next epoch's order is another
    assert captions(5, 16, 0) == whole[0][5:]


def test_a_stream_has_no_rows_by_number(tmp_path):
    source = Hub(root=parquet(tmp_path / "d", range(3)), files="*.parquet", streaming=True)
    with pytest.raises(TypeError, match="streaming=false"):
        len(source)
    with pytest.raises(ValueError, match=r"data\.val"):
        DataModule(source, source, (3, 8, 8), 2)


def test_fingerprint_is_of_the_content(tmp_path):
    def named(folder, values, **options):
        return Hub(root=parquet(tmp_path / folder, values, **options), files="*.parquet", caption="text").fingerprint

    assert named("a", range(5)) == named("b", range(5))
    assert named("c", [0, 1, 2, 3, 5]) != named("a", range(5))
    assert named("d", range(5), text=["number 9"] * 5) != named("a", range(5))


def test_a_part_of_files(tmp_path):
    """Held out from the file that is trained on: no row is in both, and each is called by its part."""
    root = parquet(tmp_path / "d", range(10))
    train, val = (Hub(root=root, files="*.parquet", split=part) for part in ("train[:90%]", "train[90%:]"))
    assert [grey(train[i]) for i in range(len(train))] == list(range(9)) and [grey(val[0])] == [9] and len(val) == 1
    assert val[0]["name"] == f"{root}/*.parquet train[90%:] row 0"
    assert len({source.fingerprint for source in (train, val, Hub(root=root, files="*.parquet"))}) == 3


def test_parts_of_real_files(shared):
    parts = [Hub(root=shared / "data/noto_emoji", files="test.parquet", split=f"test[{p}]") for p in (":90%", "90%:")]
    assert list(map(len, parts)) == [295, 33]
    images = [{part[i]["image"] for i in range(len(part))} for part in parts]
    assert len(images[0]) > 280 and not images[0] & images[1]


def test_a_part_of_a_stream_is_refused_at_once(tmp_path):
    root = parquet(tmp_path / "d", range(4))
    with pytest.raises(ValueError, match=r"train\[:50%\] cannot be cut from a stream.*streaming=false"):
        Hub(root=root, files="*.parquet", split="train[:50%]", streaming=True)


def test_fingerprint_of_a_stream_is_of_its_files(tmp_path, monkeypatch):
    def named(folder, *values):
        for k, value in enumerate(values):
            parquet(tmp_path / folder, range(value, value + 40), f"{k}.parquet")
        return Hub(root=tmp_path / folder, files="*.parquet", streaming=True).fingerprint

    monkeypatch.setattr("ldm.data.table._FIRST", 1)  # the files tell, where the first rows do not
    first = named("a", 0, 50)
    assert first == named("b", 0, 50)
    assert len({first, named("c", 0), named("d", 0, 51)}) == 3


def test_a_stream_is_known_by_the_size_and_the_end_of_its_files(tmp_path, monkeypatch):
    """Tables that share their name, their first row and their first eight bytes."""

    def named(folder, *letters):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("image\n" + "".join(f"/gone/{letter}.png\n" for letter in letters))
        return Hub(root=tmp_path / folder, files="x.csv", streaming=True).fingerprint

    monkeypatch.setattr("ldm.data.table._FIRST", 1)
    monkeypatch.setattr("ldm.data.hub._END", 8)
    first = named("one", *"ab")
    assert first == named("copy", *"ab")
    assert len({first, named("end", *"ac"), named("longer", *"aab")}) == 3


def test_no_network_is_said_clearly(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ConnectionError, match=r"nobody/nothing.*cache.*HF_HUB_OFFLINE=1 forbids asking.*data\.root=DIR"
    ):
        Hub("nobody/nothing")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"root": Path("gone"), "files": "x"}, FileNotFoundError, "no folder gone"),
        ({"root": Path("d"), "files": "test.parquet"}, FileNotFoundError, r"no file test\.parquet below it"),
        (
            {"root": Path("d"), "files": "*.parquet", "caption": "words"},
            ValueError,
            "no column words for the caption; there are image",
        ),
        ({}, ValueError, "neither is given"),
        ({"root": Path("d"), "split": "test"}, ValueError, "no split test; there are train"),
        ({"root": Path("d"), "files": "*.parquet", "split": "train[:90]%"}, ValueError, "on the command line"),
    ],
)
def test_what_is_not_there(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet(tmp_path / "d", range(2))
    with pytest.raises(error, match=message):
        Hub(**options)
