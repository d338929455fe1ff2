"""Tables of the library `datasets`, made here, so that every cell is known."""

import io
import json

import datasets
import jaxtyping
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from PIL import Image

from ldm.data import table as module
from ldm.data.module import DataModule
from ldm.data.table import Table
from tests.data.sources import png

PICTURE = {"bytes": png(0), "path": None}


def made(count: int = 3, streaming: bool = False, **columns) -> Dataset | IterableDataset:
    """A picture of grey level i in row i, and columns of values, or of (type, values)."""
    features, rows = {"image": datasets.Image()}, {"image": [{"bytes": png(i), "path": None} for i in range(count)]}
    for name, value in columns.items():
        features[name], rows[name] = value if isinstance(value, tuple) else (None, value)
    plain = Dataset.from_dict({name: rows[name] for name in rows if features[name] is None} or {"_": [0] * count})
    features = Features({name: kind or plain.features[name] for name, kind in features.items()})
    data = Dataset.from_dict(rows, features)
    return data.to_iterable_dataset() if streaming else data


def grey(item) -> int:
    return int(np.asarray(Image.open(io.BytesIO(item["image"])))[0, 0, 0])


def items(source: Table) -> list[dict]:
    return list(source.stream.rows(0, 1, 0)) if source.stream else [source[i] for i in range(len(source))]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_object_of_the_library_is_a_source(streaming):
    source = Table(made(text=["a", "b", "c"], n=[2, 0, 1], streaming=streaming), caption="text", label="n")
    found = sorted((grey(item), item["caption"], item["label"]) for item in items(source))
    assert found == [(0, "a", 2), (1, "b", 0), (2, "c", 1)]
    assert source.columns == {"caption", "label"} and source.classes == ()
    assert list(source.captions()) == ["a", "b", "c"]
    data = DataModule(source, Table(made(text=["a", "b", "c"])), (3, 8, 8), 3, workers=0)
    (batch,) = data.loader(0, 1)
    assert sorted(batch["caption"]) == ["a", "b", "c"]


def test_what_is_no_split_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # else the annotation is checked before
    with pytest.raises(TypeError, match=r"several splits; give one of them, as data\['train'\]"):
        Table(datasets.DatasetDict({"train": made()}))
    with pytest.raises(TypeError, match=r"list; wanted a datasets\.Dataset"):
        Table([1, 2])
    with pytest.raises(ValueError, match="set_transform"):
        Table(made().with_transform(lambda batch: batch))


def test_a_format_of_the_object_changes_nothing():
    source = Table(made(n=[5, 6, 7]).with_format("numpy").select([2, 0]), label="n")
    assert [(grey(item), item["label"]) for item in items(source)] == [(2, 7), (0, 5)]
    assert isinstance(source[0]["label"], int)


# Labels


@pytest.mark.parametrize("streaming", [False, True])
def test_words_for_labels_are_classes_in_their_natural_order(streaming):
    source = Table(made(4, kind=["10", "dog", "2", "10"], streaming=streaming), label="kind")
    assert source.classes == ("2", "10", "dog")
    assert sorted((grey(item), item["label"]) for item in items(source)) == [(0, 1), (1, 2), (2, 0), (3, 1)]
    if not streaming:
        assert list(source.labels()) == [1, 2, 0, 1]


def test_a_row_without_a_label_has_none():
    source = Table(made(kind=["b", None, "a"]), label="kind")
    assert [item["label"] for item in items(source)] == [1, None, 0] and source.classes == ("a", "b")


@pytest.mark.parametrize("values, wanted", [([3, 0, -1], [3, 0, -1]), ([True, False, True], [1, 0, 1])])
def test_whole_numbers_are_labels_without_names(values, wanted):
    source = Table(made(n=values), label="n")
    assert list(source.labels()) == wanted and source.classes == () and source.columns == {"label"}


def test_classes_of_the_library_keep_their_order():
    names = ClassLabel(names=["zebra", "ape"])
    source = Table(made(kind=(names, [1, 0, 1])), label="kind")
    assert source.classes == ("zebra", "ape") and list(source.labels()) == [1, 0, 1]


@pytest.mark.parametrize(
    "values, message",
    [
        ([0.5, 1.0, 2.0], "the column kind for the label holds float64; wanted whole numbers"),
        ([[1], [2], [3]], "holds lists of int64"),
        ([{"a": 1, "b": 2}] * 3, "holds records of a, b.*label=kind.a"),
        ((Value("null"), [None] * 3), "holds nothing"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_no_label_is_refused_at_the_start(values, message, streaming):
    with pytest.raises(ValueError, match=message):
        Table(made(kind=values, streaming=streaming), label="kind")


def test_labels_inside_records():
    lists, floats = [[{"n": i}] for i in range(3)], [{"n": i / 2} for i in range(3)]
    assert list(Table(made(meta=(datasets.Json(), RECORDS)), label="meta.n").labels()) == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"the column meta\.n for the label holds lists of int64; wanted whole numbers"
    ):
        Table(made(meta=lists), label="meta.n")
    with pytest.raises(ValueError, match=r"the column meta\.n for the label holds float; wanted whole numbers"):
        Table(made(meta=(datasets.Json(), floats)), label="meta.n")


# Captions


RECORDS = [{"text": f"t{i}", "n": i} for i in range(3)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name, values, wanted",
    [
        ("meta.text", RECORDS, ["t0", "t1", "t2"]),
        ("meta.inner.text", [{"inner": record} for record in RECORDS], ["t0", "t1", "t2"]),
        ("meta.text", [[record, RECORDS[0]] for record in RECORDS], [["t0", "t0"], ["t1", "t0"], ["t2", "t0"]]),
        ("meta.text", (datasets.Json(), RECORDS), ["t0", "t1", "t2"]),
        (
            "meta.texts",
            (datasets.Json(), [{"texts": ["a", "b"]}, {"n": 0}, {"texts": ["c"]}]),
            [["a", "b"], None, ["c"]],
        ),
        ("meta", [["a", "b"], ["c"], ["d"]], [["a", "b"], ["c"], ["d"]]),
    ],
)
def test_captions_inside_records(name, values, wanted, streaming):
    source = Table(made(meta=values, streaming=streaming), caption=name)
    found = sorted(((grey(item), item["caption"]) for item in items(source)), key=lambda pair: pair[0])
    assert [value for _, value in found] == wanted and list(source.captions()) == wanted


def test_a_column_of_that_very_name_comes_first():
    source = Table(made(**{"meta": RECORDS, "meta.text": ["x", "y", "z"]}), caption="meta.text")
    assert list(source.captions()) == ["x", "y", "z"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name, values, message",
    [
        (
            "meta",
            RECORDS,
            r"the column meta for the caption holds records of (text, n|n, text).*caption=meta\.(text|n)",
        ),
        ("meta", (datasets.Json(), RECORDS), r"holds records of text, n; wanted text.*caption=meta\.text"),
        ("meta", [1, 2, 3], "holds int64; wanted text, or a list of texts"),
        ("meta.words", RECORDS, "no field words in meta; there are"),
        ("meta.text", [1, 2, 3], "meta holds int64 and no records"),
        (
            "meta.words",
            (datasets.Json(), RECORDS),
            r"the column meta\.words for the caption holds nothing in its first rows",
        ),
        ("meta.n", (datasets.Json(), RECORDS), r"the column meta\.n for the caption holds int"),
        (
            "meta.all",
            (datasets.Json(), [{"all": [{"raw": "a"}]}] * 3),
            r"records of raw; wanted text.*caption=meta\.all\.raw",
        ),
        ("words", RECORDS, "no column words for the caption; there are image, meta"),
    ],
)
def test_what_is_no_caption_is_refused_at_the_start(name, values, message, streaming):
    with pytest.raises(ValueError, match=message):
        Table(made(meta=values, streaming=streaming), caption=name)


def test_a_column_that_is_empty_in_every_row_is_no_column():
    source = Table(made(text=(Value("string"), [None] * 3), n=[1, 2, 3]), caption="text", label="n")
    assert source.columns == {"label"}


def test_of_a_stream_the_first_captions_stand_for_all(monkeypatch):
    monkeypatch.setattr(module, "CAPTIONS", 2)
    assert list(Table(made(text=["a", "b", "c"], streaming=True), caption="text").captions()) == ["a", "b"]
    assert list(Table(made(text=["a", "b", "c"]), caption="text").captions()) == ["a", "b", "c"]


# Images


@pytest.mark.parametrize("streaming", [False, True])
def test_the_image_is_of_whichever_column_has_one(streaming):
    rows = {
        "jpg": [{"bytes": png(0), "path": None}, None, None],
        "png": [None, {"bytes": png(1), "path": "1.png"}, None],
        "view.webp": [None, None, {"bytes": png(2), "path": None}],
    }
    data = Dataset.from_dict(rows, Features({name: datasets.Image() for name in rows}))
    data = data.to_iterable_dataset() if streaming else data
    assert sorted(grey(item) for item in items(Table(data))) == [0, 1, 2]
    only = Table(data, image=("png", "jpg"))
    assert [item["image"] is None for item in items(only)].count(True) == 1


def test_of_several_images_the_one_of_the_commonest_name_is_taken():
    rows = {name: [{"bytes": png(i), "path": None}] for i, name in enumerate(("view", "png", "jpg"))}
    assert grey(Table(Dataset.from_dict(rows, Features({name: datasets.Image() for name in rows})))[0]) == 2


def test_some_rows_of_a_set_with_many_empty_cells():
    rows = {"png": [None, None, {"bytes": png(2), "path": None}], "jpg": [{"bytes": png(0), "path": None}] * 2 + [None]}
    data = Dataset.from_dict(rows, Features({name: datasets.Image() for name in rows}))
    assert [grey(item) for item in items(Table(data.select([2])))] == [2]


@pytest.mark.parametrize("kind", [Value("binary"), Value("large_binary")])
def test_bytes_are_images(kind):
    source = Table(Dataset.from_dict({"img": [png(4)]}, Features({"img": kind})))
    assert grey(source[0]) == 4 and "image" not in source.facts(0)


def test_what_is_no_image_is_refused_at_the_start():
    with pytest.raises(ValueError, match="the column n for the image holds int64; wanted images"):
        Table(made(n=[1, 2, 3]), image="n")
    with pytest.raises(ValueError, match=r"the column image for the image holds addresses, as https://x\.org/a\.png"):
        Table(Dataset.from_dict({"image": ["https://x.org/a.png"]}))
    with pytest.raises(ValueError, match="no column image or img or .* for the image; there are n"):
        Table(Dataset.from_dict({"n": [1]}))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_item_is_called_by_its_row_and_where_it_is_from(streaming):
    rows = [{"bytes": png(0), "path": "cat/0.png"}, {"bytes": None, "path": "/gone/1.png"}]
    data = Dataset.from_dict({"image": rows}, Features({"image": datasets.Image()}))
    source = Table(data.to_iterable_dataset() if streaming else data, name="mine")
    names = {item["name"] for item in items(source)}
    if streaming:
        assert {name.split(" (")[1] for name in names} == {"cat/0.png)", "/gone/1.png)"}
    else:
        assert names == {"mine row 0 (cat/0.png)", "mine row 1 (/gone/1.png)"}
        assert [source.facts(i)["name"] for i in range(2)] == [source[i]["name"] for i in range(2)]


def test_a_missing_picture_is_told_by_its_path(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path in paths[:2]:
        Image.new("RGB", (8, 8)).save(path)
    data = DataModule(Table(Dataset.from_dict({"image": paths})), Table(made()), (3, 8, 8), 3, workers=0, max_bad=0.5)
    data.bad_samples = tmp_path / "bad_samples.jsonl"
    list(data.loader(0, 1))
    (entry,) = map(json.loads, data.bad_samples.read_text().splitlines())
    assert paths[2] in entry["name"] and "row 2" in entry["name"]


# Groups


def test_rows_of_one_image_have_the_labels_of_the_first():
    source = Table(made(4, who=["a", "b", "a", "b"], n=[5, 6, 7, 8], text=list("wxyz")), None, "text", "n", "who")
    assert [(grey(i), i["label"], i["caption"]) for i in items(source)] == [(0, 5, ["w", "y"]), (1, 6, ["x", "z"])]
    assert list(source.labels()) == [5, 6] and len(source) == 2


def test_captions_of_a_group_inside_records():
    source = Table(made(meta=RECORDS, who=["a", "b", "a"]), caption="meta.text", group="who")
    assert [item["caption"] for item in items(source)] == [["t0", "t2"], ["t1"]]


def test_groups_are_not_streamed():
    with pytest.raises(ValueError, match=r"grouped by n while streaming.*data\.train\.group=null"):
        Table(made(n=[1, 2, 3], streaming=True), group="n")


# Fingerprints


def test_fingerprint_of_everything_that_an_item_is():
    def named(count: int = 3, streaming: bool = False, **options) -> str:
        columns = {"text": ["a", "b", "c"], "words": ["d", "e", "f"], "kind": ["x", "y", "x"], "n": [0, 1, 0]}
        return Table(made(count, streaming, **{k: v[:count] for k, v in columns.items()}), **options).fingerprint

    for streaming in (False, True):
        settings = ({}, {"caption": "text"}, {"caption": "words"}, {"label": "kind"}, {"label": "n"}, {"count": 2})
        found = [named(streaming=streaming, **each) for each in settings]
        assert len(set(found)) == len(found) and found == [named(streaming=streaming, **each) for each in settings]
    assert named(group="n") != named()


def test_fingerprint_of_mapped_labels():
    def named(names: list[str]) -> str:
        return Table(made(kind=(ClassLabel(names=names), [0, 1, 0])), label="kind").fingerprint

    assert named(["a", "b"]) != named(["b", "a"])


def test_fingerprint_of_pictures_in_files_is_of_their_content_and_not_of_their_place(tmp_path):
    def named(folder: str, value: int, size: int = 8) -> str:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "x.png"
        path.write_bytes(png(value, size))
        return Table(Dataset.from_dict({"image": [str(path)]})).fingerprint

    assert named("a", 1) == named("b", 1)
    assert len({named("c", 1), named("d", 2), named("e", 1, 9)}) == 3


def test_fingerprint_of_groups():
    def named(who: str) -> str:
        return Table(made(who=list(who)), group="who").fingerprint

    assert named("aba") == named("xyx") != named("aab")


def test_fingerprint_of_pictures_that_are_not_read_is_of_their_sizes_and_names(tmp_path, monkeypatch):
    def named(folder: str, second: str, size: int) -> str:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / name for name in ("first.png", second)]
        for path, side in zip(paths, (8, size), strict=True):
            path.write_bytes(png(0, side))
        return Table(Dataset.from_dict({"image": list(map(str, paths))})).fingerprint

    monkeypatch.setattr(module, "_WHOLE", 1)  # of two pictures the first is read
    first = named("a", "x.png", 8)
    assert first == named("b", "x.png", 8)
    assert len({first, named("c", "y.png", 8), named("d", "x.png", 64)}) == 3


def test_marks_are_sizes_of_images(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for size, path in zip((4, 8), paths, strict=False):
        path.write_bytes(png(0, size))
    wanted = [len(png(0, 4)), len(png(0, 8)), None]
    assert Table(Dataset.from_dict({"image": list(map(str, paths))})).marks() == wanted
    here = [{"bytes": path.read_bytes(), "path": "x"} for path in paths[:2]]
    data = Dataset.from_dict({"png": [*here, None], "jpg": [None, None, here[0]]})
    data = data.cast(Features({name: datasets.Image() for name in data.features}))
    assert Table(data).marks() == [*wanted[:2], wanted[0]]
    grouped = Table(made(4, who=["a", "b", "a", "b"]), group="who")
    assert grouped.marks() == [len(png(0)), len(png(1))] and [grouped.key(i) for i in range(2)] == ["0", "1"]


# Streams


def test_a_row_leaves_the_buffer_when_another_comes():
    """A buffer of one row leaves the order as it is; with one of two, row k comes out at place k - 1 or later."""
    order = [grey(item) for item in Table(made(6, streaming=True), buffer=1).stream.rows(0, 1, 0)]
    assert order == list(range(6))
    mixed = [grey(item) for item in Table(made(6, streaming=True), buffer=2).stream.rows(0, 1, 0)]
    assert sorted(mixed) == order and all(row <= place + 1 for place, row in enumerate(mixed))


def test_a_reader_without_rows_in_a_pass_is_no_error_where_others_have_some():
    """Four files for four readers, one of them empty: whoever draws it goes on to the next pass."""

    def rows(numbers):
        for n in numbers:
            if n:
                yield {"image": png(n), "n": n}

    features = Features({"image": Value("binary"), "n": Value("int64")})
    data = IterableDataset.from_generator(rows, features, {"numbers": [0, 1, 2, 3]})
    train = Table(data, label="n")
    loaded = DataModule(train, Table(made()), (3, 8, 8), 4, workers=0)
    labels = [b["label"].tolist() for rank in range(4) for b in loaded.loader(0, 8, rank, 4)]
    assert {label for batch in labels for label in batch} == {1, 2, 3}


def test_what_cannot_be_read_on_names_the_file():
    def rows(files):
        yield {"n": 1, "image": png(1)}
        raise OSError("unexpected end")

    features = Features({"image": Value("binary"), "n": Value("int64")})
    source = Table(IterableDataset.from_generator(rows, features, {"files": ["a", "b"]}), name="mine")
    with pytest.raises(ValueError, match=r"mine: file [12] of 2 cannot be read on: unexpected end"):
        list(source.stream.rows(0, 1, 0))
