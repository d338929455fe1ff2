"""The file of one compressed image: what a decoder has to know beside the model, and the coded numbers.

    "ldmz"           4 bytes
    checksum         4, of all that follows: whether the file is whole
    layout           1 byte: 1, the number of this layout
    model            4 bytes of the hash of the weights
    numbers          4, the checksum of the numbers that were coded: whether they were decoded
    torch            3 whole numbers, its version
    shape            3, (c, h, w) of what was coded; codes have c = 0
    what follows     1: 0 no condition, 1 a class, 2 a caption; 16 more where there is a grid
    condition        the class, or the caption's length and its bytes in UTF-8
    grid             of latents: step (4 bytes), bound
    coded numbers    the rest

Whole numbers are written 7 bits a byte, the lowest first. Without the coded numbers that is some 23 bytes, most of it so that
a wrong run, a damaged file and a machine that computes otherwise are told apart and never give a wrong picture.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from ldm.prior.stepwise import Grid

ENDING = ".ldmz"

_NAME, _LAYOUT = b"ldmz", 1
_LABEL, _CAPTION, _GRID = 1, 2, 16


@dataclass(frozen=True)
class CodedFile:
    """What a file says of itself, and the numbers that it holds.

    Fields:
        model: the first four bytes of the hash of the weights.
        numbers: the checksum of the numbers that were coded.
        torch: its version.
        shape: (c, h, w) of what was coded, c = 0 of codes.
        said: the condition, one `caption`, one `label`, or nothing.
        grid: of latents.
        data: the coded numbers.
    """

    model: bytes
    numbers: bytes
    torch: tuple[int, int, int]
    shape: tuple[int, int, int]
    said: Mapping[str, Any]
    grid: Grid | None
    data: bytes

    def packed(self) -> bytes:
        """The file."""
        words = bytes([_LAYOUT]) + self.model + self.numbers
        kind, condition = self._condition()
        words += b"".join(map(_number, (*self.torch, *self.shape)))
        words += bytes([kind if self.grid is None else kind + _GRID]) + condition
        if self.grid is not None:
            words += struct.pack("<f", self.grid.step) + _number(self.grid.bound)
        return _NAME + checksum(words + self.data) + words + self.data

    def _condition(self) -> tuple[int, bytes]:
        if self.said.get("label", -1) >= 0:
            return _LABEL, _number(self.said["label"])
        if self.said.get("caption"):
            text = self.said["caption"].encode()
            return _CAPTION, _number(len(text)) + text
        return 0, b""


def unpacked(file: bytes, name: str) -> CodedFile:
    """What a file holds; ValueError where it is none, or not whole. `name` is what messages call it."""
    if file[:4] != _NAME:
        raise ValueError(f"{name} is no file of task=compress: it does not begin with {_NAME.decode()}")
    if file[4:8] != checksum(file[8:]):
        raise ValueError(f"{name} is cut off or was changed: its checksum is not that of its bytes; copy it again")
    rest = _Rest(file, 8)
    try:
        layout = rest.bytes(1)[0]
        if layout != _LAYOUT:
            raise ValueError(f"{name} is of layout {layout}, and this ldm reads {_LAYOUT}: take the ldm that wrote it")
        model, numbers = rest.bytes(4), rest.bytes(4)
        torch, shape = (tuple(rest.number() for _ in range(3)) for _ in range(2))
        kind = rest.bytes(1)[0]
        said = _said(kind & ~_GRID, rest)
        grid = Grid(*struct.unpack("<f", rest.bytes(4)), rest.number()) if kind & _GRID else None
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is whole, and no file that task=compress has written ({error})") from error
    return CodedFile(model, numbers, torch, shape, said, grid, file[rest.at :])


def checksum(data: bytes) -> bytes:
    """Four bytes that tell damage."""
    return xxhash.xxh32(data).digest()


class _Rest:
    """Bytes that are read one after the other; IndexError behind their end."""

    def __init__(self, file: bytes, at: int):
        self._file, self.at = file, at

    def bytes(self, count: int) -> bytes:
        if self.at + count > len(self._file):
            raise IndexError("it ends too early")
        self.at += count
        return self._file[self.at - count : self.at]

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7


def _number(value: int) -> bytes:
    """A whole number from 0, 7 bits a byte, the lowest first; 128 is added to every byte but the last."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _said(kind: int, rest: _Rest) -> dict[str, Any]:
    if kind == _LABEL:
        return {"label": rest.number()}
    if kind == _CAPTION:
        return {"caption": rest.bytes(rest.number()).decode()}
    if kind:
        raise IndexError(f"a condition of kind {kind}")
    return {}
