"""The file of a compressed image: what is written is read, and no damage is."""

import dataclasses

import pytest
import torch

from ldm.prior.stepwise import Grid
from ldm.task.tools.coded_file import CodedFile, checksum, unpacked

PLAIN = CodedFile(b"abcd", b"efgh", (2, 14, 1), (0, 8, 8), {}, None, bytes(range(40)))
FILES = [
    PLAIN,
    dataclasses.replace(PLAIN, said={"label": 300}, shape=(3, 200, 1000)),
    dataclasses.replace(PLAIN, said={"caption": "ein grüner Stern ★"}, data=b""),
    dataclasses.replace(PLAIN, said={"label": 0}, grid=Grid(0.5, 200), shape=(4, 8, 8)),
]


@pytest.mark.parametrize("file", FILES, ids=range(4))
def test_what_is_written_is_read(file):
    assert unpacked(file.packed(), "x") == file


@pytest.mark.parametrize("said", [{"label": -1}, {"caption": ""}])
def test_no_condition_takes_no_room(said):
    file = dataclasses.replace(PLAIN, said=said).packed()
    assert file == PLAIN.packed() and len(file) == 24 + 40


@pytest.mark.parametrize("file", FILES, ids=range(4))
def test_no_damage_goes_unseen(file):
    whole = file.packed()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r"^x is (cut off or was changed|no file of task=compress)"):
            unpacked(bytes(changed), "x")
        with pytest.raises(ValueError, match=r"^x is (cut off or was changed|no file of task=compress)"):
            unpacked(whole[:at], "x")
    with pytest.raises(ValueError, match="cut off or was changed"):
        unpacked(whole + b"\0", "x")


def test_other_layouts_are_told():
    rest = b"\x02" + PLAIN.packed()[9:]
    with pytest.raises(ValueError, match="^x is of layout 2, and this ldm reads 1"):
        unpacked(b"ldmz" + checksum(rest) + rest, "x")


def test_nonsense_with_a_right_checksum_is_no_crash():
    generator = torch.Generator().manual_seed(0)
    for length in list(range(60)) * 5:
        rest = b"\x01" + bytes(torch.randint(256, (length,), generator=generator).tolist())
        try:
            unpacked(b"ldmz" + checksum(rest) + rest, "x")
        except ValueError as error:
            assert str(error).startswith("x is whole, and no file that task=compress has written")
    with pytest.raises(ValueError, match="x is whole, and no file.*it ends too early"):
        unpacked(b"ldmz" + checksum(b""), "x")
