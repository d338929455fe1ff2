"""A search for held-out images that are also training images. With these, validation measures memorisation.

A sample of the held-out images is searched among the training images, byte by byte. Most training images are excluded without
reading them, by a mark that is cheap to compute (`Source.marks`, as the length of a file). Where very many remain, for
example because all files have the same length, a sample of them is read. So a set that repeats as a whole is found in seconds
whatever its size, while single images that repeat may be missed. An image that was stored again in another format counts as
another image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.data.batches import spread
from ldm.data.source import Source, digest

_HELD_OUT, _TRAINING = 256, 8192  # the greatest numbers of images that are read


def overlap(train: Source, val: Source) -> str | None:
    """A sentence that says how many of the sampled held-out images are training images, and what was compared; None where no
    image is."""
    asked = spread(range(len(val)), _HELD_OUT)
    marks, val_marks = train.marks(), val.marks()
    rows: Sequence[int] = range(len(train))
    if marks is not None and val_marks is not None:
        wanted = {val_marks[row] for row in asked}
        rows = [row for row, mark in enumerate(marks) if mark in wanted]
    looked_at = spread(rows, _TRAINING)
    found = {_content(train, row) for row in looked_at} - {None}
    common = sum(_content(val, row) in found for row in asked) if found else 0
    if not common:
        return None
    part = "the" if len(looked_at) == len(rows) else f"a sample of {len(looked_at):,} of the"
    return (
        f"{common} of {len(asked)} sampled held-out images are also training images, byte for byte (compared with {part} "
        f"{len(train):,} training images): validation measures memory"
    )


def _content(source: Source, row: int) -> str | None:
    """A hash of an image as it is stored; None for one that cannot be read, about which there is a message where it is
    used."""
    image: Any = source[row].get("image")
    try:
        if isinstance(image, str | os.PathLike):
            return digest([Path(image).read_bytes()])
    except OSError:
        return None
    if isinstance(image, bytes):
        return digest([image])
    if isinstance(image, np.ndarray | Image.Image):
        pixels = np.asarray(image)
        return digest([str(pixels.shape), pixels.tobytes()])
    return None
