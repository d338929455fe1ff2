"""Dots: white discs of one of two sizes on black, each with a caption. Rendered as they are read."""

from typing import Literal

import numpy
from pydantic import PositiveInt

from ldm.data.source import Item, Source, digest


class Dots(Source):
    """Item i is a function of (split, i).

    Arguments:
        count: how many items.
        split: train, or test, which has other places.
        size: sides of an image, in pixels.
    """

    def __init__(self, count: PositiveInt, split: Literal["train", "test"] = "train", size: PositiveInt = 32):
        self.count, self.split, self.size = count, split, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        x, y = numpy.random.default_rng([index, self.split == "test"]).uniform(0.3, 0.7, 2) * self.size
        rows, columns = numpy.mgrid[: self.size, : self.size]
        radius = self.size * (0.1, 0.25)[index % 2]
        image = 255 * ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(numpy.uint8)
        return {"image": image[..., None].repeat(3, 2), "caption": f"a {('small', 'large')[index % 2]} dot"}

    @property
    def fingerprint(self) -> str:
        return digest(["dots", str(self.count), self.split, str(self.size)])
