"""What a visitor is shown at one moment: rows of pictures, how much of the way is left, and a line of what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image

Pictures = Sequence[PIL.Image.Image]


@dataclass(frozen=True)
class Row:
    """Pictures beside each other.

    Fields:
        pictures: of one size.
        words: below each; () for none.
        title: above them.
    """

    pictures: Pictures
    words: Sequence[str] = ()
    title: str = ""


@dataclass(frozen=True)
class Frame:
    """One moment of a drawing.

    Fields:
        rows: of pictures.
        left: how much of the way is left, from 1 at noise to 0; None where that is not known.
        note: what was done, in a line.
        strip: whether the pictures are one sequence, as those of a walk.
        film: the same as a moving GIF.
    """

    rows: Sequence[Row]
    left: float | None = 0.0
    note: str = ""
    strip: bool = False
    film: bytes = b""
