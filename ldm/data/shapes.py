"""Shapes: a synthetic captioned data set, in which every caption can be checked against its image.

An image shows one shape of one colour on a uniform background, as "a small red circle at the top left on a white background".
The five attributes are drawn from all their combinations. Position, size, angle and colours vary within bounds in which the
words remain true. The outline of a shape is given by a signed distance d in pixels, negative inside, and the coverage of a
pixel is clip(1/2 - d, 0, 1). This is the area of the pixel inside the shape: exactly for a straight edge along an axis, and
within a few per cent elsewhere.

About a tenth of the combinations, the same for every seed, do not occur in `train`; half of the images of `test` show them. So
a model can be tested on combinations that it has never seen: it knows "red", "star" and "top left", but not all three
together. Everything is a function of (seed, split, index) alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import PositiveInt

from ldm.data.source import Item, Source, digest
from ldm.random import Random, seed_of

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "shape": ("circle", "square", "triangle", "star"),
    "size": ("small", "large"),
    "place": (
        *("top left", "top", "top right"),
        *("left", "middle", "right"),
        *("bottom left", "bottom", "bottom right"),
    ),
    "background": ("white", "black", "grey"),
}
LABELS = tuple(f"{colour} {shape}" for colour in ATTRIBUTES["colour"] for shape in ATTRIBUTES["shape"])

_COLOURS = np.float32(
    [(224, 48, 52), (247, 140, 28), (250, 218, 48), (46, 168, 76), (40, 92, 214), (128, 52, 178), (250, 150, 196)]
)
_GROUNDS = np.float32([(248, 248, 248), (18, 18, 18), (132, 132, 132)])
_COLOUR_JITTER = 6  # of 255; far less than the difference of any two colours. Backgrounds vary in lightness only

# Lengths are shares of the image's side; the largest star at an outermost place may lose a pixel of a tip.
_PLACES = np.float32([(x, y) for y in (0.32, 0.5, 0.68) for x in (0.32, 0.5, 0.68)])
_PLACE_JITTER = 0.03
_RADII = np.float32([(0.125, 0.145), (0.2, 0.225)])
_ANGLE_JITTER = 8  # degrees either way

_BLOCK = 1024
_PATTERN = re.compile(
    "a (?P<size>{size}) (?P<colour>{colour}) (?P<shape>{shape}) at the (?P<place>{place}) "
    "on a (?P<background>{background}) background".format(
        **{name: "|".join(sorted(words, key=len, reverse=True)) for name, words in ATTRIBUTES.items()}
    )
)


def caption(attributes: Mapping[str, int]) -> str:
    """The caption for five attributes, each given as an index into its words in `ATTRIBUTES`."""
    word = {name: words[attributes[name]] for name, words in ATTRIBUTES.items()}
    return "a {size} {colour} {shape} at the {place} on a {background} background".format(**word)


def parse(caption: str) -> dict[str, int]:
    """The inverse of `caption`: the attributes in a caption. Upper case and outer spaces are ignored. ValueError for any other
    text."""
    match = _PATTERN.fullmatch(caption.strip().lower())
    if match is None:
        words = "; ".join(f"{name}: {', '.join(words)}" for name, words in ATTRIBUTES.items())
        raise ValueError(
            f"cannot read the caption {caption!r}; "
            f"wanted 'a SIZE COLOUR SHAPE at the PLACE on a BACKGROUND background' with {words}"
        )
    return {name: words.index(match[name]) for name, words in ATTRIBUTES.items()}


@cache
def combinations(unseen: bool) -> np.ndarray:
    """The combinations of attributes that do not occur in `train` (about a tenth), or all others, as indices (n, 5)."""
    every = itertools.product(*(range(len(words)) for words in ATTRIBUTES.values()))
    return np.array([each for each in every if (seed_of("shapes: held out", *each) % 10 == 0) == unseen])


def _polygon(corners: int, inner: float, radius: float, turn: float) -> np.ndarray:
    """(corners, 2) on circles of `radius` and, every second one, `radius * inner`; the first corner points up."""
    angle = np.arange(corners) * (2 * math.pi / corners) + turn
    length = radius * np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([length * np.sin(angle), -length * np.cos(angle)], -1).astype(np.float32)


# Outlines in units of the shape's radius, of about equal visual weight.
_OUTLINES = {
    1: _polygon(4, 1.0, 0.92 * math.sqrt(2), math.pi / 4),
    2: _polygon(3, 1.0, 1.32, 0.0) + np.float32([0, 0.2]),
    3: _polygon(10, 0.46, 1.36, 0.0) + np.float32([0, 0.06]),
}


def _distance_to_polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance (n, h, w) in the units of `radius` to a polygon scaled by radius (n, 1, 1): the nearest edge's
    distance, negative where a ray crosses the outline an odd number of times."""
    square, inside = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ax, ay, ex, ey = ax * radius, ay * radius, (bx - ax) * radius, (by - ay) * radius
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        square = np.minimum(square, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        crosses = (py >= 0) != (py >= ey)
        inside ^= crosses & ((px * ey < py * ex) == (ey > 0))
    return np.where(inside, -1, 1) * np.sqrt(square)


def render(
    attributes: np.ndarray, jitter: Float[np.ndarray, "n 8"], size: int = 32
) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """The images (n, size, size, 3) of attributes (n, 5), which are in the order of `ATTRIBUTES`.

    Arguments:
        jitter: numbers in [-1, 1], (n, 8), that vary x, y, radius, angle, the three channels of the shape's colour, and the
            lightness of the background.
        size: side in pixels.
    """
    colour, shape, large, place, ground = attributes.T
    jitter = jitter.astype(np.float32)
    low, high = _RADII[large].T
    radius = (size * (low + high + jitter[:, 2] * (high - low)) / 2)[:, None, None]
    centre = size * (_PLACES[place] + _PLACE_JITTER * jitter[:, :2])
    turn = np.deg2rad(_ANGLE_JITTER * jitter[:, 3])[:, None, None]
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx, dy = grid[None, None, :] - centre[:, 0, None, None], grid[None, :, None] - centre[:, 1, None, None]
    x, y = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    distance = np.sqrt(x * x + y * y) - radius
    for kind, corners in _OUTLINES.items():
        rows = shape == kind
        distance[rows] = _distance_to_polygon(x[rows], y[rows], corners, radius[rows])
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    front = (_COLOURS[colour] + _COLOUR_JITTER * jitter[:, 4:7])[:, None, None]
    back = (_GROUNDS[ground] + _COLOUR_JITTER * jitter[:, 7:])[:, None, None]
    return np.clip(np.rint(back + cover * (front - back)), 0, 255).astype(np.uint8)


class Shapes(Source):
    """The source of rendered images with captions.

    An item has `image`, uint8 (size, size, 3); `caption`; `label`, an index into `LABELS` (colour and shape); the five
    attributes, each an index into its words in `ATTRIBUTES`; and `unseen`, whether its combination does not occur in `train`.

    Arguments:
        count: number of images; image i is the same for every count greater than i.
        split: in `train` the held-out combinations do not occur; in `test` every image with an even index shows one.
        size: side in pixels, at least 16.
        seed: of the images; the held-out combinations do not depend on it.
    """

    ATTRIBUTES = ATTRIBUTES
    LABELS = LABELS

    def __init__(self, count: PositiveInt, split: Literal["train", "test"], size: PositiveInt = 32, seed: int = 0):
        if size < 16:
            raise ValueError(f"size: wanted at least 16 pixels, where shapes can still be told apart; got {size}")
        self.count, self.split, self.size, self.seed = count, split, size, seed
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._rendered: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> str:
        """A hash of the arguments and of the first images, which a change of the renderer would change."""
        words = (self.count, self.split, self.size, self.seed)
        return digest([*map(str, words), Shapes(64, self.split, self.size, self.seed)._images(0).tobytes()])

    @property
    def classes(self) -> tuple[str, ...]:
        return LABELS

    def _random(self, number: int) -> Random:
        rows = torch.arange(number * _BLOCK, min((number + 1) * _BLOCK, self.count))
        return Random(self.seed, 0, rows)

    def _attributes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Attributes (n, 5) and unseen (n,) of one block; computed once, when they are first needed."""
        if number not in self._drawn:
            random = self._random(number)
            choice = random.uniform(f"shapes/{self.split}/combination").double().numpy()
            unseen = (random.rows.numpy() % 2 == 0) & (self.split == "test")
            held_out, seen = combinations(True), combinations(False)
            attributes = np.where(
                unseen[:, None],
                held_out[(choice * len(held_out)).astype(int)],
                seen[(choice * len(seen)).astype(int)],
            )
            self._drawn[number] = attributes, unseen
        return self._drawn[number]

    def _images(self, number: int) -> np.ndarray:
        """The images of one block; rendered once, when they are first needed."""
        if number not in self._rendered:
            jitter = 2 * self._random(number).uniform(f"shapes/{self.split}/jitter", (8,)).numpy() - 1
            self._rendered[number] = render(self._attributes(number)[0], jitter, self.size)
        return self._rendered[number]

    def facts(self, index: int) -> Item:
        number, row = self._locate(index)
        attributes, unseen = self._attributes(number)
        named = {name: int(value) for name, value in zip(ATTRIBUTES, attributes[row], strict=True)}
        label = named["colour"] * len(ATTRIBUTES["shape"]) + named["shape"]
        return {"caption": caption(named), "label": label, **named, "unseen": bool(unseen[row])}

    def __getitem__(self, index: int) -> Item:
        number, row = self._locate(index)
        return {"image": self._images(number)[row], **self.facts(index)}

    def marks(self) -> list[tuple]:
        """For each image the numbers that it is a function of."""
        return [(self.split, self.size, self.seed, index) for index in range(self.count)]

    def _locate(self, index: int) -> tuple[int, int]:
        if not -self.count <= index < self.count:
            raise IndexError(f"index {index} of {self.count} shapes")
        return divmod(index % self.count, _BLOCK)
