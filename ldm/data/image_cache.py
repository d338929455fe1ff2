"""The decoded images of a whole data set, kept in memory that the workers share.

Decoding a photograph takes milliseconds, copying its 64 x 64 pixels takes microseconds. So a data set that fits into memory
is decoded once. The memory is anonymous and not a file in /dev/shm, which is small in containers. Worker processes that are
made by fork share it; others have each their own.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from jaxtyping import UInt8


class ImageCache:
    """Memory for `items` images of `image_shape` (c, h, w), items * c * h * w bytes, which is filled image by image."""

    def __init__(self, items: int, image_shape: tuple[int, int, int]):
        self.items, self.image_shape = items, image_shape
        self._make()

    def _make(self) -> None:
        channels, height, width = self.image_shape
        shape = (self.items, height, width, channels)
        self._images = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
        self._known = np.frombuffer(mmap.mmap(-1, self.items), np.uint8)

    def __contains__(self, index: int) -> bool:
        return bool(self._known[index])

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        return self._images[index]

    def __setitem__(self, index: int, pixels: UInt8[np.ndarray, "h w c"]) -> None:
        self._images[index] = pixels
        self._known[index] = 1  # only after the pixels, since other processes may be reading

    def __getstate__(self) -> dict[str, Any]:
        return {"items": self.items, "image_shape": self.image_shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make()
