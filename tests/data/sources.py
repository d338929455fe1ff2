"""Sources for the tests, small enough to know every item."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ldm.data.source import Source, digest


def png(value: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(file, "PNG")
    return file.getvalue()


class Numbers(Source):
    """Item i is an image of grey level i with five captions "i a" .. "i e" and label i; those of `bad` are garbage."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()):
        self.count, self.bad = count, frozenset(bad)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        image = b"<html>" if index in self.bad else np.full((8, 8, 3), index % 256, np.uint8)
        return {"image": image, "caption": [f"{index} {c}" for c in "abcde"], "label": index, "name": f"n{index}"}

    @property
    def fingerprint(self) -> str:
        return digest(["numbers", str(self.count), str(sorted(self.bad))])


class Halves(Numbers):
    """As Numbers, left half black and right half white, to see mirrors by."""

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        if index in self.bad:
            return item
        image = np.zeros((8, 8, 3), np.uint8)
        image[:, 4:] = 255
        return item | {"image": image}
