"""Row R11 of the list of faults: what a caption can be."""

import numpy as np
import pytest

from ldm.data.caption import LONGEST, clean

CASES = [
    (None, "", "missing"),
    ("", "", "missing"),
    (float("nan"), "", "missing"),
    (np.float64("nan"), "", "missing"),
    ([], "", "missing"),
    (3, "", "not text"),
    ({"text": "a"}, "", "not text"),
    (b"\xff\xfe\x00", "", "invalid unicode"),
    ("\udcff", "", "invalid unicode"),
    ("\u200b\u200d\ufeff", "", "invisible"),
    ("\0\0", "", "invisible"),
    ("  a red\n circle ", "a red circle", None),
    (b"caf\xc3\xa9", "café", None),
    (b"\xef\xbb\xbfa cat", "a cat", None),
    ("\ufeffa cat", "a cat", None),
    ("a cat".encode("utf-16"), "a cat", None),
    ("👩‍🚀", "👩‍🚀", None),
    ([None, "", "a star"], "a star", None),
]


@pytest.mark.parametrize("value, text, problem", CASES)
def test_clean(value, text, problem):
    assert clean(value) == (text, problem)


def test_long_caption_is_cut():
    text, problem = clean("word " * 20_000)
    assert len(text) <= LONGEST and text.startswith("word word") and problem == "too long"
    assert clean(["", "x" * (LONGEST + 5)]) == ("x" * LONGEST, "too long")


def test_each_of_five_is_drawn():
    assert {clean(list("abcde"), draw)[0] for draw in range(5)} == set("abcde")
