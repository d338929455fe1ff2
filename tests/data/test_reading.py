"""Files as people have them: names, folders, encodings, tars of mixed kinds."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ldm.data.hub import Hub
from ldm.data.module import DataModule
from ldm.data.reading import builder_of, check_text, matching, tar_features
from tests.data.sources import png


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def grey(image) -> int:
    opened = Image.open(image if isinstance(image, str) else io.BytesIO(image))
    return int(np.asarray(opened.convert("L"))[0, 0])


def items(source: Hub) -> list[dict]:
    rows = source.stream.rows(0, 1, 0) if source.stream else (source[i] for i in range(len(source)))
    return sorted(rows, key=lambda item: item["name"])


def pictures(folder: Path, *values: int) -> None:
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / "img" / f"{value}.png").write_bytes(png(value))


def tar(path: Path, *samples: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))


def parquet(file: Path, *values: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [{"bytes": png(v), "path": None} for v in values], "label": list(values)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features).to_parquet(file)


# Names of files and folders

ODD = ["br[ack]et", "a b", "x#y", "it's", "Grüße", "(1),2", "q?*", "~home"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("streaming", [False, True])
def test_any_name_of_a_file_and_of_its_folder(tmp_path, name, streaming):
    parquet(tmp_path / name / f"{name}.parquet", 5, 6)
    parquet(tmp_path / name / "other.parquet", 7)
    source = Hub(root=tmp_path / name, files=f"{name}.parquet", label="label", streaming=streaming)
    assert [item["label"] for item in items(source)] in ([5, 6], [6, 5])
    whole = Hub(root=tmp_path / name, files="*.parquet", label="label")
    assert sorted(whole.labels()) == [5, 6, 7]


def test_the_literal_name_wins_over_the_pattern(tmp_path):
    for name in ("t[1].parquet", "t1.parquet", "u1.parquet"):
        (tmp_path / name).touch()
    found = [matching(tmp_path, [pattern]) for pattern in ("t[1].parquet", "u[1].parquet", "t*.parquet")]
    assert [[file.name for file in files] for files in found] == [
        ["t[1].parquet"],
        ["u1.parquet"],
        ["t1.parquet", "t[1].parquet"],
    ]


def test_patterns_below_folders_of_any_name(tmp_path):
    (tmp_path / "br[ack]et/deep").mkdir(parents=True)
    (tmp_path / "br[ack]et/deep/x.csv").touch()
    (tmp_path / "br[ack]et/deep/._x.csv").touch()  # what another system leaves beside it
    for pattern in ("br[ack]et/*/*.csv", "**/x.csv", f"{tmp_path}/br[ack]et/deep/*.csv"):
        assert [file.name for file in matching(tmp_path, [pattern])] == ["x.csv"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parquet(tmp_path / "data/x.parquet", 3)
    assert list(Hub(root=Path("~/data"), files="x.parquet", label="label").labels()) == [3]
    assert list(Hub(files="~/data/x.parquet", label="label").labels()) == [3]
    DataModule(*[Hub(files="~/data/x.parquet")] * 2, (3, 8, 8), 2, root=Path("~/data"))
    assert not (Path.cwd() / "~").exists()


def test_what_reads_a_file_goes_by_its_ending(tmp_path):
    assert builder_of([Path("a.csv"), Path("b.tsv")]) == "csv"
    assert builder_of([Path("a.tar.gz")]) == builder_of([Path("a.TAR")]) == "webdataset"
    assert builder_of([Path("a.jsonl.gz")]) == builder_of([Path("a.json")]) == "json"
    with pytest.raises(ValueError, match=r"ending in \.csv and \.parquet cannot be read as one set"):
        builder_of([Path("a.csv"), Path("b.parquet")])
    with pytest.raises(ValueError, match=r"ending in \.xyz cannot be read.*builder="):
        builder_of([Path("a.xyz")])


# Tables with paths


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "csv.gz"])
def test_paths_are_relative_to_their_file(tmp_path, monkeypatch, ending, streaming):
    monkeypatch.chdir(tmp_path)
    for folder, values in (("b", (1, 2)), ("a", (3,))):
        pictures(tmp_path / folder, *values)
        rows = [{"file": f"img/{v}.png", "text": f"Grüße, {v}", "kind": "cat" if v == 1 else "dog"} for v in values]
        if ending == "jsonl":
            text = "\n".join(map(json.dumps, rows))
        elif ending == "json":
            text = json.dumps(rows)
        else:
            mark = "\t" if ending == "tsv" else ","
            text = (
                mark.join(rows[0]) + "\n" + "\n".join(mark.join(f'"{v}"' for v in row.values()) for row in rows) + "\n"
            )
        data = text.encode("utf-8-sig" if ending == "csv" else "utf-8")  # as a spreadsheet writes it
        (tmp_path / folder / f"t.{ending}").write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    source = Hub(root=Path(), files=f"*/t.{ending}", image="file", caption="text", label="kind", streaming=streaming)
    assert source.classes == ("cat", "dog")
    found = {(grey(item["image"]), item["caption"], item["label"]) for item in items(source)}
    assert found == {(1, "Grüße, 1", 0), (2, "Grüße, 2", 1), (3, "Grüße, 3", 1)}


def test_a_missing_picture_is_called_by_its_path(tmp_path):
    pictures(tmp_path, 1)
    (tmp_path / "t.csv").write_text("image\nimg/1.png\nimg/2.png\n")
    source = Hub(root=tmp_path, files="t.csv")
    assert [item["name"] for item in items(source)] == [
        f"{tmp_path}/t.csv row {i} ({tmp_path}/img/{i + 1}.png)" for i in range(2)
    ]


def test_labels_with_fractions_are_refused_by_the_name_of_the_column(tmp_path):
    (tmp_path / "t.csv").write_text("image,score\na.png,0.5\nb.png,1\n")
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"t\.csv: the column score for the label holds float64"):
            Hub(root=tmp_path, files="t.csv", label="score", streaming=streaming)


def test_words_that_look_like_nothing_are_words(tmp_path):
    (tmp_path / "t.csv").write_text("image,text,kind\na.png,null,NA\nb.png,,None\nc.png,n/a,NA\n")
    for streaming in (False, True):
        source = Hub(root=tmp_path, files="t.csv", caption="text", label="kind", streaming=streaming)
        assert list(source.captions()) == ["null", None, "n/a"] and source.classes == ("NA", "None")


def test_what_is_made_of_paths_is_made_once(tmp_path):
    pictures(tmp_path, 1)
    (tmp_path / "t.csv").write_text("image\nimg/1.png\n")
    made = []
    for _ in range(2):
        Hub(root=tmp_path, files="t.csv")
        made.append(sorted(file.name for file in (tmp_path / "cache").rglob("*.arrow")))
    assert made[0] == made[1] and len(made[0]) == 2


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("encoding, looks", [("latin1", "Latin-1"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16")])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_another_encoding_is_said_with_the_name_of_the_file(tmp_path, ending, encoding, looks, streaming):
    text = 'image,text\na.png,"Grüße"\n' if ending == "csv" else '{"image": "a.png", "text": "Grüße"}\n'
    (tmp_path / f"good.{ending}").write_text(text, encoding="utf-8")
    (tmp_path / f"wrong.{ending}").write_text(text, encoding=encoding)
    with pytest.raises(ValueError, match=rf"wrong\.{ending}: no text in UTF-8 .*{looks}.*iconv -f"):
        Hub(root=tmp_path, files=f"*.{ending}", caption="text", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.parquet", b"not parquet at all", r"t\.parquet: cannot be read as parquet"),
        ("t.jsonl", b'{"image": \n"oops', r"t\.jsonl: cannot be read as json"),
        ("t.csv", b"", r"t\.csv is empty"),
        ("t.tar", b"not a tar", r"t\.tar: cannot be read as webdataset"),
    ],
)
def test_what_is_no_such_file_is_said_with_its_name(tmp_path, name, content, message, streaming):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Hub(root=tmp_path, files=name, streaming=streaming)


def test_a_builder_that_is_none(tmp_path):
    parquet(tmp_path / "x.parquet", 1)
    with pytest.raises(ValueError, match="builder=parket: no such builder; there are arrow, csv, json, parquet"):
        Hub(root=tmp_path, files="x.parquet", builder="parket")
    with pytest.raises(ValueError, match="name=en is a configuration"):
        Hub(root=tmp_path, files="x.parquet", name="en")
    with pytest.raises(ValueError, match="builder=parquet says what reads files, and none are named"):
        Hub(root=tmp_path, builder="parquet")


# Tars


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(file, "JPEG", quality=100)
    return file.getvalue()


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_of_mixed_kinds_lose_no_row(tmp_path, streaming):
    text = [{"json": json.dumps({"text": f"n {i}", "more": i if i % 2 else "x"}).encode()} for i in range(6)]
    tar(tmp_path / "t-0.tar", *({"jpg": jpeg(10 * i)} | text[i] for i in range(2)))
    tar(tmp_path / "t-1.tar", *({"png": png(10 * i)} | text[i] for i in range(2, 4)))
    tar(tmp_path / "t-2.tar", {"JPEG": jpeg(40)} | text[4], {"png": png(50)} | text[5])
    source = Hub(root=tmp_path, files="t-*.tar", caption="json.text", streaming=streaming)
    assert sorted((grey(i["image"]), i["caption"]) for i in items(source)) == [(10 * i, f"n {i}") for i in range(6)]


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_tars_are_checked_at_the_start(tmp_path, streaming):
    tar(tmp_path / "t.tar", *({"png": png(i), "json": b'{"text": "a"}', "cls": b"3"} for i in range(2)))
    source = Hub(root=tmp_path, files="t.tar", label="cls", streaming=streaming)
    assert [item["label"] for item in items(source)] == [3, 3]
    for options, message in (
        ({"caption": "json"}, r"the column json for the caption holds records of text.*caption=json\.text"),
        ({"caption": "txt"}, r"t\.tar: no column txt for the caption; there are png, json, cls"),
        ({"image": "jpg"}, "no column jpg for the image; there are png, json, cls"),
    ):
        with pytest.raises(ValueError, match=message):
            Hub(root=tmp_path, files="t.tar", streaming=streaming, **options)


def test_the_type_of_a_field_goes_by_its_last_ending():
    found = tar_features(["view.png", "side.cls"], "view.png", {"label": "side.cls"})
    assert found == {"view.png": datasets.Image(decode=False), "side.cls": datasets.Value("int64")}


# Folders


@pytest.mark.parametrize("name", ["plain", "br[ack]et"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_folder_with_metadata(tmp_path, name, ending, streaming):
    pictures(tmp_path / name, 1, 2)
    rows = [{"file_name": f"img/{v}.png", "text": f"n {v}", "kind": f"k{v}"} for v in (1, 2)]
    text = (
        "\n".join(map(json.dumps, rows))
        if ending == "jsonl"
        else "\ufefffile_name,text,kind\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    )
    (tmp_path / name / f"metadata.{ending}").write_text(text, encoding="utf-8")
    source = Hub(root=tmp_path / name, caption="text", label="kind", streaming=streaming)
    assert source.classes == ("k1", "k2")
    found = [(grey(item["image"]), item["caption"], item["label"]) for item in items(source)]
    assert sorted(found) == [(1, "n 1", 0), (2, "n 2", 1)]
    with pytest.raises(ValueError, match=r"no split validation; there are train\. Two can be cut.*hold_out"):
        Hub(root=tmp_path / name, split="validation")
    if not streaming:
        assert [len(Hub(root=tmp_path / name, split=part)) for part in ("train[:50%]", "train[50%:]")] == [1, 1]


def test_metadata_of_another_encoding(tmp_path):
    pictures(tmp_path, 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\nimg/1.png,Grüße\n", encoding="latin1")
    with pytest.raises(ValueError, match=r"metadata\.csv: no text in UTF-8"):
        Hub(root=tmp_path, caption="text")


def test_wide_characters_without_a_zero_byte_are_known_by_their_mark(tmp_path):
    (tmp_path / "snow.csv").write_bytes(b"\xff\xfe" + "雪花".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"snow\.csv: no text in UTF-8 .*it looks like UTF-16.*-f utf-16"):
        check_text(tmp_path / "snow.csv")


@pytest.mark.parametrize("kind", ["csv", "tar"])
def test_a_folder_of_files_is_read_with_the_same_care(tmp_path, kind):
    """Without `files`, where the splits are found by their names."""
    root = tmp_path / "set"
    root.mkdir()
    for split, values in (("train", (1, 2)), ("test", (3,))):
        if kind == "csv":
            (root / f"{split}.csv").write_text("image\n" + "".join(f"pics/{v}.png\n" for v in values))
        else:
            tar(root / f"{split}.tar", *({"jpg" if v == 1 else "png": png(v)} for v in values))
    found = [items(Hub(root=root, split=split)) for split in ("train", "test", "train[1:]", "train+test")]
    if kind == "csv":
        wanted = [[f"{root}/pics/{v}.png" for v in values] for values in ((1, 2), (3,), (2,), (1, 2, 3))]
        assert [[item["image"] for item in each] for each in found] == wanted
    else:
        assert [[grey(item["image"]) for item in each] for each in found] == [[1, 2], [3], [2], [1, 2, 3]]
