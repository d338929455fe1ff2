"""Parts of a split, whose rows are counted by hand."""

import datasets
import pytest

from ldm.data.slices import names_of, part_of


def rows(split: str, count: int = 10) -> list[int]:
    return part_of(datasets.Dataset.from_dict({"i": list(range(count))}), split)["i"][:]


@pytest.mark.parametrize(
    "split, wanted",
    [
        ("train", list(range(10))),
        ("train[:90%]", list(range(9))),
        ("train[90%:]", [9]),
        ("anything[2:4]", [2, 3]),
        ("train[-2:]", [8, 9]),
        ("train[:2]+train[8:]", [0, 1, 8, 9]),
    ],
)
def test_part(split, wanted):
    assert rows(split) == wanted


@pytest.mark.parametrize("count", [1, 7, 99, 158])
def test_two_parts_are_the_whole(count):
    assert rows("train[:90%]", count or 1) + (rows("train[90%:]", count) if count > 4 else []) == list(range(count))


@pytest.mark.parametrize(
    "split, message",
    [
        ("train[:90]%", r"split=train\[:90\]%"),
        ("train[0.1:]", "data.hold_out"),
        ("[:90%]", r"\"data.train.split='train\[:90%\]'\""),
        ("train[:200%]", "Percent slice boundaries"),
    ],
)
def test_what_cannot_be_understood_says_the_right_form(split, message):
    with pytest.raises(ValueError, match=message):
        names_of(split)


def test_names():
    assert names_of("train[:10%]+test+train[90%:]") == ["train", "test"] and names_of("v1.0[3:]") == ["v1.0"]
    with pytest.raises(ValueError, match="parts of several splits of files"):
        rows("train[:2]+test[:2]")


def test_no_rows():
    with pytest.raises(ValueError, match=r"split=train\[20:\]: none of the 10 rows"):
        rows("train[20:]")
