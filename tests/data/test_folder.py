import pytest
from PIL import Image

from ldm.data.folder import Folder


@pytest.fixture
def root(tmp_path):
    for name in ("dog/b.PNG", "cat/a.png", "cat/deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "cat/a.txt").write_bytes("a cat\nun café\n".encode())
    (tmp_path / "cat/notes.md").write_text("no image")
    return tmp_path


def test_classes_are_folders_and_captions_lie_beside(root):
    source = Folder(root)
    assert source.classes == ("cat", "dog") and [source[i]["label"] for i in range(3)] == [0, 0, 1]
    assert source[0]["caption"] == [b"a cat", "un café".encode()] and source[1]["caption"] is None


def test_class_as_caption_or_none(root):
    assert [Folder(root, "class")[i]["caption"] for i in range(3)] == ["cat", "cat", "dog"]
    assert "caption" not in Folder(root, "none")[0]


def test_flat_folder_has_no_classes(root):
    source = Folder(root / "cat" / "deep")
    assert source.classes == () and source[0]["label"] == 0


def test_images_beside_classes_are_refused(root):
    Image.new("RGB", (4, 4)).save(root / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png"):
        Folder(root)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images below it"):
        Folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        Folder(tmp_path / "gone")


def test_holding_out(root):
    parts = [Folder(root, every=2, held_out=held_out) for held_out in (False, True)]
    assert sorted(part[i]["name"] for part in parts for i in range(len(part))) == [
        "cat/a.png",
        "cat/deep/c.png",
        "dog/b.PNG",
    ]
    assert all(part.classes == ("cat", "dog") for part in parts)


def test_fingerprint_reads_the_captions(root):
    before = Folder(root).fingerprint
    assert Folder(root).fingerprint == before
    (root / "cat/a.txt").write_bytes("a dog\nun café\n".encode())
    assert Folder(root).fingerprint != before
