"""Files and directories are whole or they are what they were."""

import errno
import json
import os

import pytest
import xxhash

from ldm import files
from ldm.files import checksum, named, whole_directory, whole_file, write_json, write_text


def test_a_file_is_replaced_by_a_rename(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_text(file, "old")
    before = file.stat().st_ino
    kept = file.open()  # who reads meanwhile reads the old one to its end
    write_json(file, {"grüße": [1, None]})
    assert kept.read() == "old" and file.stat().st_ino != before
    assert json.loads(file.read_text(encoding="utf-8")) == {"grüße": [1, None]} and "ü" in file.read_text("utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*a\.json"):
        write_text(file, "newer")
    assert json.loads(file.read_text(encoding="utf-8")) == {"grüße": [1, None]}


def test_an_error_that_names_its_file_keeps_the_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, named(tmp_path / "outer"):
        os.stat(tmp_path / "inner")
    assert caught.value.filename.endswith("inner")
    with pytest.raises(OSError) as caught, named(tmp_path / "outer"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename.endswith("outer") and caught.value.errno == errno.EIO


def test_a_directory_is_there_when_its_block_ends_well(tmp_path):
    for text in ("1", "2"):
        with whole_directory(tmp_path / "d") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text(text)
            assert not (tmp_path / "d").exists() or (tmp_path / "d/deep/file").read_text() == "1"
        assert (tmp_path / "d/deep/file").read_text() == text
    with pytest.raises(KeyError), whole_directory(tmp_path / "d") as folder:
        (folder / "other").write_text("3")
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["d"] and not (tmp_path / "d/other").exists()


def test_a_leftover_of_a_crash_is_no_part_of_the_next(tmp_path):
    (tmp_path / "d.tmp").mkdir()
    (tmp_path / "d.tmp" / "old").write_text("x")
    with whole_directory(tmp_path / "d") as folder:
        (folder / "new").write_text("y")
    assert [each.name for each in (tmp_path / "d").iterdir()] == ["new"]


def test_a_checksum_is_of_all_bytes(tmp_path):
    content = bytes(range(256)) * 80_000  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert checksum(tmp_path / "x") == xxhash.xxh3_128_hexdigest(content)
    (tmp_path / "x").write_bytes(content[:-1] + b"?")
    assert checksum(tmp_path / "x") != xxhash.xxh3_128_hexdigest(content)


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "new" / "a.bin"
    with pytest.raises(KeyError), whole_file(file) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("killed")
    assert list(file.parent.iterdir()) == []
    with whole_file(file) as temporary:
        temporary.write_bytes(b"whole")
        assert not file.exists()
    assert [each.name for each in file.parent.iterdir()] == ["a.bin"] and file.read_bytes() == b"whole"
