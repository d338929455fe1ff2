"""Text files as people have them."""

import codecs

import pytest

from ldm.files import decoded, folder, read_text

TEXT = "un café\r\nGrüße 👩‍🚀\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
def test_text_in_every_encoding_that_says_what_it_is(data, tmp_path):
    (tmp_path / "captions.txt").write_bytes(data)
    assert decoded(data) == read_text(tmp_path / "captions.txt") == TEXT


@pytest.mark.parametrize("data", [TEXT.encode("utf-16-le"), "Grüße".encode("latin-1"), b"\xff\xfe\x00"])
def test_another_encoding_names_the_file_and_what_was_wanted(data, tmp_path):
    (tmp_path / "captions.txt").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"captions\.txt: no text in UTF-8, or in UTF-16 with a byte order mark .*iconv"
    ):
        read_text(tmp_path / "captions.txt")


def test_an_empty_file_is_an_empty_text(tmp_path):
    (tmp_path / "empty").touch()
    assert read_text(tmp_path / "empty") == ""


def test_a_folder_is_no_file_and_in_none(tmp_path):
    (tmp_path / "file").touch()
    assert folder(tmp_path) == tmp_path and folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"^runs={wrong}: a folder is wanted, and {tmp_path / 'file'} is a file"):
            folder(wrong, "runs")
