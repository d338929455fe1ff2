"""Which part of an image is to be filled in: a hole of ones among zeros, (b, 1, h, w).

half      the right half
box       a square in the middle of half the image's sides
random    half of all pixels, drawn anew for each row
a file    an image of the model's size, white where it is to be filled in and black where it is kept
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from ldm.random import Random


class Hole(ABC):
    """A hole. A new one writes `__call__`."""

    @abstractmethod
    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        """1 where images of `size` (h, w) are to be filled in, 0 where they are kept, of each row of `random`, on its device."""


class Half(Hole):
    """The right half."""

    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        hole = torch.zeros(1, 1, *size, device=random.rows.device)
        hole[..., size[1] // 2 :] = 1
        return hole.repeat(len(random.rows), 1, 1, 1)


class Box(Hole):
    """A square in the middle of half the image's sides."""

    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        hole, (top, left) = torch.zeros(1, 1, *size, device=random.rows.device), (side // 4 for side in size)
        hole[..., top : top + size[0] // 2, left : left + size[1] // 2] = 1
        return hole.repeat(len(random.rows), 1, 1, 1)


class Pixels(Hole):
    """Half of all pixels, by chance."""

    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        return (random.uniform("hole", (1, *size)) < 0.5).float()


class Drawn(Hole):
    """One that was drawn, the same for every image.

    Arguments:
        hole: 1 where it is to be filled in, (h, w).
        name: what messages call it.
    """

    def __init__(self, hole: Float[Tensor, "h w"], name: str):
        self.hole, self.name = hole, name

    def check(self, size: tuple[int, int]) -> None:
        """ValueError where it is of another size than images of `size` (h, w), or has no pixel to fill in or to keep."""
        if self.hole.shape != size:
            height, width = self.hole.shape
            raise ValueError(
                f"task.mask={self.name} is {width} x {height} pixels, and this model's images are {size[1]} x {size[0]}: "
                "draw it on an image of that size"
            )
        if (share := self.hole.mean()) in (0, 1):
            said = "black: there is nothing to fill in" if share == 0 else "white: there is nothing to go by"
            raise ValueError(f"task.mask={self.name} is all {said} (white is filled in, black is kept)")

    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        self.check(size)
        return self.hole.to(random.rows.device)[None, None].repeat(len(random.rows), 1, 1, 1)


WORDS: dict[str, type[Hole]] = {"half": Half, "box": Box, "random": Pixels}


def painted(mask: PIL.Image.Image | np.ndarray | Tensor) -> Drawn:
    """The hole of a mask in memory: an image, white where it is to be filled in, or an array (h, w) of 8 bits, of numbers from 0
    to 1 or of truths. ValueError for one of another shape."""
    values = torch.as_tensor(np.array(mask.convert("L")) if isinstance(mask, PIL.Image.Image) else mask)
    if values.ndim != 2:
        raise ValueError(f"a mask is (h, w), 1 where it is to be filled in; got the shape {tuple(values.shape)}")
    threshold = 127 if values.dtype == torch.uint8 else 0.5
    return Drawn((values if values.dtype == torch.bool else values > threshold).float().cpu(), "the given one")


def hole_of(mask: str | Hole) -> Hole:
    """The hole of a word or of a file, or one that is given. ValueError where a text is neither word nor file."""
    if isinstance(mask, Hole):
        return mask
    if mask in WORDS:
        return WORDS[mask]()
    ways = f"{', '.join(WORDS)}, or an image of the model's size, white where it is to be filled in"
    if not Path(mask).expanduser().is_file():
        raise ValueError(f"task.mask={mask} is no file; a mask is {ways}")
    try:
        grey = np.array(PIL.Image.open(Path(mask).expanduser()).convert("L"))
    except OSError as error:
        raise ValueError(f"task.mask={mask} is no image that can be read; a mask is {ways}") from error
    return Drawn(torch.from_numpy(grey > 127).float(), mask)
