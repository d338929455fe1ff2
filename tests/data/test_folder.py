"""Folders of images as people have them."""

import codecs
import json
import logging
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ldm.data.folder import Folder
from ldm.data.image import decode
from ldm.data.module import DataModule


def picture(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)


def labels(source: Folder) -> dict[str, str]:
    """The name of each image with that of its class."""
    items = [source[i] for i in range(len(source))]
    return {item["name"]: source.classes[item["label"]] for item in items}


def module(train: Folder, val: Folder) -> DataModule:
    return DataModule(train, val, (1, 4, 4), 2, workers=0)


@pytest.fixture
def root(tmp_path):
    for name in ("dog/b.PNG", "cat/a.png", "cat/deep/c.png"):
        picture(tmp_path / name)
    (tmp_path / "cat/a.txt").write_bytes("a cat\nun café\n".encode())
    (tmp_path / "cat/notes.md").write_text("no image")
    return tmp_path


def test_classes_are_folders_and_captions_lie_beside(root):
    source = Folder(root)
    assert source.classes == ("cat", "dog") and [source[i]["label"] for i in range(3)] == [0, 0, 1]
    assert source[0]["caption"] == ["a cat", "un café"] and source[1]["caption"] is None


def test_class_as_caption_or_none(root):
    assert [Folder(root, "class")[i]["caption"] for i in range(3)] == ["cat", "cat", "dog"]
    assert "caption" not in Folder(root, "none")[0]


def test_columns_are_what_there_is(root):
    assert Folder(root).columns == Folder(root, "class").columns == {"caption", "label"}
    assert Folder(root, "none").columns == Folder(root / "dog").columns | {"label"} == {"label"}
    assert Folder(root / "dog", "class").columns == Folder(root / "dog").columns == frozenset()
    (root / "dog/b.txt").write_text(" \n")
    assert Folder(root / "dog").columns == frozenset() and Folder(root / "dog")[0]["caption"] is None


def test_flat_folder_has_no_classes(root):
    """And no labels: label 0 would be a class."""
    source = Folder(root / "cat" / "deep")
    assert source.classes == () and "label" not in source[0]
    data = module(source, source)
    assert data.label_count == 0 and data.items("train", [0])["label"].tolist() == [-1]


def test_images_beside_classes_are_refused(root):
    picture(root / "stray.png")
    with pytest.raises(ValueError, match=r"in sub-folders \(classes\), as dog/b\.PNG, and outside them, as stray\.png"):
        Folder(root)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images below it"):
        Folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        Folder(tmp_path / "gone")
    picture(tmp_path / ".hidden" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"no images below it .*there are 1 names .*\(as \.hidden\)"):
        Folder(tmp_path)


def test_sub_folders_that_are_splits_are_no_classes(tmp_path):
    for split in ("train", "Val"):
        picture(tmp_path / split / "cat" / "a.png")
    with pytest.raises(
        ValueError, match=r"Val, train are splits and not classes; take data=folders with data\.train\.root="
    ):
        Folder(tmp_path)
    picture(tmp_path / "bus" / "a.png")
    assert Folder(tmp_path).classes == ("Val", "bus", "train")


def test_fingerprint_reads_the_captions_and_the_classes(root, tmp_path_factory):
    before = Folder(root).fingerprint
    assert Folder(root).fingerprint == before != Folder(root, "class").fingerprint
    (root / "cat/a.txt").write_bytes("a dog\nun café\n".encode())
    changed = Folder(root).fingerprint
    assert changed != before
    (root / "dog").rename(root / "emu")
    assert Folder(root).fingerprint != changed


# Numbers of classes


def test_numbers_in_names_are_in_their_order(tmp_path, caplog):
    for name in ("10", "2", "1", "b12", "b9", "007"):
        picture(tmp_path / name / "a.png")
    with caplog.at_level(logging.INFO):
        data = module(Folder(tmp_path), Folder(tmp_path))
    assert data.classes == ("1", "2", "007", "10", "b9", "b12")
    assert labels(Folder(tmp_path)) == {f"{name}/a.png": name for name in data.classes}
    assert "labels, by number: 0: 1, 1: 2, 2: 007, 3: 10, 4: b9, 5: b12" in caplog.text


def test_hundreds_of_classes_are_told_in_a_line(tmp_path, caplog):
    for i in range(120):
        picture(tmp_path / f"c{i}" / "a.png")
    with caplog.at_level(logging.INFO):
        module(Folder(tmp_path), Folder(tmp_path))
    (line,) = [record.getMessage() for record in caplog.records if "labels" in record.getMessage()]
    assert (
        line.startswith("labels, by number: 0: c0, 1: c1, 2: c2, ")
        and line.endswith("... 119: c119 (120 in all)")
        and len(line) < 300
    )


def test_own_folders_to_train_and_to_hold_out(tmp_path):
    """The held-out folder lacks a class: its second class is training's third."""
    for name in ("train/cat", "train/dog", "train/eel", "val/cat", "val/eel"):
        picture(tmp_path / name / "a.png")
    data = module(Folder(tmp_path / "train"), Folder(tmp_path / "val"))
    assert data.classes == ("cat", "dog", "eel") and data.items("val", [0, 1])["label"].tolist() == [0, 2]
    picture(tmp_path / "val/fox/a.png")
    with pytest.raises(ValueError, match=r"data\.val: it has the class fox, which is not among cat, dog, eel"):
        module(Folder(tmp_path / "train"), Folder(tmp_path / "val"))


def test_one_name_in_two_spellings_is_one_class(tmp_path):
    """An accent is a letter of its own on some systems."""
    picture(tmp_path / "train" / unicodedata.normalize("NFC", "café") / "a.png")
    picture(tmp_path / "val" / unicodedata.normalize("NFD", "café") / "a.png")
    data = module(Folder(tmp_path / "train"), Folder(tmp_path / "val"))
    assert data.classes == ("café",) and data.items("val", [0])["label"].tolist() == [0]


# Links, and what is not looked at


def test_links_are_followed(tmp_path):
    for name in ("cat", "dog", "eel"):
        picture(tmp_path / "store" / name / "a.png", grey=len(name))
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "store/cat")
    (root / "dog").symlink_to(Path("..") / "store" / "dog")
    picture(root / "eel/b.png")
    (root / "eel/linked.png").symlink_to(tmp_path / "store/eel/a.png")
    (root / "same").symlink_to(tmp_path / "store/cat")
    assert labels(Folder(root)) == {
        **{"cat/a.png": "cat", "dog/a.png": "dog", "eel/b.png": "eel", "eel/linked.png": "eel", "same/a.png": "same"}
    }
    (tmp_path / "link").symlink_to(root)
    assert labels(Folder(tmp_path / "link")) == labels(Folder(root))


def test_a_link_to_the_folder_it_lies_in_ends(tmp_path):
    """Alone, so that even where it is followed the system ends it, after 40 links or so."""
    picture(tmp_path / "dog/b.png")
    (tmp_path / "dog/self").symlink_to(tmp_path / "dog")
    assert set(labels(Folder(tmp_path))) == {"dog/b.png"}


def test_loops_of_links_end_and_are_told(tmp_path, caplog):
    picture(tmp_path / "cat/a.png")
    picture(tmp_path / "dog/b.png")
    (tmp_path / "cat/up").symlink_to(tmp_path)
    (tmp_path / "dog/self").symlink_to(tmp_path / "dog")
    (tmp_path / "dog/other").symlink_to(tmp_path / "cat")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert set(labels(Folder(tmp_path))) == {"cat/a.png", "dog/b.png", "dog/other/a.png"}
    assert "3 links that lead nowhere (as cat/gone.png)" in caplog.text
    assert "3 links back to a folder above them (as cat/up)" in caplog.text


def test_what_the_system_left_is_skipped_and_told_once(root, caplog):
    expected = labels(Folder(root))
    for name in (
        *(".ipynb_checkpoints/a-checkpoint.png", "cat/.ipynb_checkpoints/a.png", "cat/._a.png", "__MACOSX/cat/._a.png"),
        *("dog/Thumbs.db", "dog/.DS_Store", ".git/x.png", "dog/@eaDir/b.png"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    caplog.clear()
    source = Folder(root)
    assert source.classes == ("cat", "dog") and labels(source) == expected
    (line,) = caplog.messages
    assert "3 images; left out are 8 names that begin with a point or are the system's (as .git)" in line
    assert "1 other files (as cat/notes.md)" in line
    data = module(source, source)
    list(data.loader(0, 4))
    assert data.counts() == {"train seen": 3, "train bad": 0, "train caption missing": 2}


def test_a_hidden_root_is_a_root(tmp_path):
    picture(tmp_path / ".cache" / "cat" / "a.png")
    assert Folder(tmp_path / ".cache").classes == ("cat",)


@pytest.mark.parametrize("name", ["br[ack]et", "it's #1 (a, b) = c", 'say "x" *?', "Grüße 雪", " space "])
def test_places_with_odd_names(name, tmp_path):
    picture(tmp_path / name / name / f"{name}.png")
    (tmp_path / name / name / f"{name}.txt").write_text("a caption", encoding="utf-8")
    source = Folder(tmp_path / name)
    assert source.classes == (name,) and source[0]["caption"] == ["a caption"]
    assert decode(source[0]["image"]).size == (4, 4)


def test_names_that_are_no_text(tmp_path):
    """A file system's names are bytes, of an older one perhaps in Latin-1."""
    picture(tmp_path / "0.png")
    picture(tmp_path / "1.png")
    os.rename(tmp_path / "0.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    data = DataModule(Folder(tmp_path), None, (1, 4, 4), 1, workers=0, hold_out=0.5)
    assert data.fingerprint and data.items("val", [0])["image"].shape == (1, 1, 4, 4)


def test_home_is_expanded(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(Folder(Path("~") / root.name)) == 3
    source = Folder(root)
    assert DataModule(source, source, (1, 4, 4), 2, root=Path("~") / root.name, workers=0).classes == ("cat", "dog")


# Captions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_the_encodings_that_people_have(root, encoding):
    (root / "cat/a.txt").write_bytes("Grüße\r\nun café".encode(encoding))
    data = module(Folder(root), Folder(root))
    assert Folder(root)[0]["caption"] == ["Grüße", "un café"] and data.items("val", [0])["caption"] == ["Grüße"]


def test_captions_in_another_encoding_name_the_file(root):
    (root / "cat/a.txt").write_bytes("Grüße".encode("latin-1"))
    (root / "dog/b.TXT").write_bytes("Grüße".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"cat/a\.txt: no text in UTF-8.*; 1 more are such"):
        Folder(root)
    assert Folder(root, "class")[0]["caption"] == "cat"


def test_metadata_has_the_captions(root, caplog):
    rows = [
        {"file_name": "cat/a.png", "text": "in the table"},  # which the file beside it outdoes
        {"file_name": "./cat/deep/c.png", "text": "a deep cat"},
        {"file_name": "dog/b.PNG", "text": ["a dog", "ein Hund"]},
        {"file_name": "dog/gone.png", "text": "lost"},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (root / "metadata.jsonl").write_bytes(codecs.BOM_UTF8 + text.encode())
    source = Folder(root)
    assert [source[i]["caption"] for i in range(3)] == [["a cat", "un café"], ["a deep cat"], ["a dog", "ein Hund"]]
    assert "1 rows of metadata.jsonl without an image (as dog/gone.png)" in caplog.text
    before = source.fingerprint
    (root / "metadata.jsonl").write_text(text.replace("a deep cat", "the deep cat"))
    assert Folder(root).fingerprint != before


def test_metadata_as_a_table_of_its_own_folder(root):
    (root / "cat/metadata.csv").write_bytes('file_name,caption\ndeep/c.png,"a cat, deep"\r\n'.encode("utf-16"))
    source = Folder(root)
    assert source[1]["caption"] == ["a cat, deep"] and source[2]["caption"] is None


def test_metadata_of_several_folders_is_put_together(root):
    (root / "metadata.csv").write_text("file_name,text\ndog/b.PNG,a dog\n")
    (root / "cat/metadata.csv").write_text("file_name,text\ndeep/c.png,a deep cat\n")
    assert [Folder(root)[i]["caption"] for i in (1, 2)] == [["a deep cat"], ["a dog"]]


def test_metadata_names_images_in_any_spelling(root):
    """By a detour, and with the accent as a letter of its own."""
    picture(root / "dog" / unicodedata.normalize("NFC", "é.png"))
    names = ("cat/../dog/b.PNG", unicodedata.normalize("NFD", "dog/é.png"))
    rows = "".join(f"{name},caption {i}\n" for i, name in enumerate(names))
    (root / "metadata.csv").write_text(f"file_name,text\n{rows}", encoding="utf-8")
    assert [Folder(root)[i]["caption"] for i in (2, 3)] == [["caption 0"], ["caption 1"]]


def test_empty_captions_of_metadata_are_none(root):
    rows = [{"file_name": "cat/deep/c.png", "text": ""}, {"file_name": "dog/b.PNG", "text": [None, "a dog", ""]}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [Folder(root)[i]["caption"] for i in (1, 2)] == [None, ["a dog"]]


def test_metadata_without_captions_is_told_and_points_to_the_hub(root, caplog):
    (root / "metadata.csv").write_text("file_name,price\ncat/a.png,3\n")
    assert Folder(root)[1]["caption"] is None
    assert "row 1 has the columns file_name, price; wanted file_name and one of caption" in caplog.text
    assert f"data=hub data.root={root}" in caplog.text


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"file_name": "cat/a.png", ', r"metadata\.jsonl line 2: no JSON"),
        ('["cat/a.png"]', r"metadata\.jsonl line 2: wanted a JSON object"),
        ('{"file_name": "a.png", "text": "x"}', r"metadata\.jsonl: none of its 1 images is there, as .*a\.png"),
    ],
)
def test_damaged_metadata_names_the_line(root, line, message):
    (root / "metadata.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=message):
        Folder(root)


def test_captions_of_another_type_are_told_at_the_start(root):
    (root / "metadata.jsonl").write_text('{"file_name": "dog/b.PNG", "text": {"en": "a dog"}}')
    source = Folder(root / "dog")
    assert source.columns == frozenset()
    (root / "cat/a.txt").unlink()
    with pytest.raises(
        ValueError, match=r"data\.train: the captions are of type dict, as \{'en': 'a dog'\}; wanted text"
    ):
        module(Folder(root), source)
