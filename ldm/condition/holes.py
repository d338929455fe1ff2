"""The law of the holes that a model learns to fill in: of ones among zeros, (b, 1, h, w).

Each example has a hole of one kind, and kinds are drawn in proportion to their weights:

    box      a rectangle whose sides are 1/4 to 3/4 of the image's, anywhere in it
    half     all on one side, of four, of a line that lies 1/4 to 3/4 of the way
    stroke   a thick line of three pieces through four random points, each of a quarter to a half of the image's side from the one
             before, and 1/16 to 3/16 of it wide on either side
    pixels   each pixel by itself, with a probability of 1/4 to 3/4

Sides, places and probabilities are uniform. Strokes are what people draw, as in Yu et al. 2018 (section 4.2) and Suvorov et al.
2021 (section 2.3); none of these laws is theirs to the number.

Sources:
    Yu et al., Free-Form Image Inpainting with Gated Convolution (2018), arXiv 1806.03589
    Suvorov et al., Resolution-robust Large Mask Inpainting with Fourier Convolutions (2021), arXiv 2109.07161
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from ldm.constructed import Constructed
from ldm.random import Random

_PIECES = 3  # of a stroke


class Holes(Constructed):
    """Random holes of four kinds.

    Arguments:
        box, half, stroke, pixels: how often each kind is drawn, in proportion to the others; 0 is never.
    """

    def __init__(
        self,
        box: NonNegativeFloat = 1.0,
        half: NonNegativeFloat = 1.0,
        stroke: NonNegativeFloat = 1.0,
        pixels: NonNegativeFloat = 1.0,
    ):
        self.weights = (box, half, stroke, pixels)
        if not sum(self.weights):
            raise ValueError("condition.holes: all kinds have weight 0, so there are no holes; give one of them more")

    def __call__(self, size: tuple[int, int], random: Random) -> Float[Tensor, "b 1 h w"]:
        """1 where images of `size` (h, w) are unknown, of each row of `random`, on its device."""
        device = random.rows.device
        ends = torch.tensor(self.weights, device=device).cumsum(0)
        kind = torch.bucketize(random.uniform("hole kind") * ends[-1], ends, right=True).clamp(max=len(ends) - 1)
        rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in size)
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]  # (1, 2, h, w), from 0 to 1
        u = random.uniform("hole", (4,))[:, :, None, None]
        pixels = random.uniform("hole pixels", size) < 0.25 + 0.5 * u[:, 0]
        every = torch.stack([_box(place, u), _half(place, u), _stroke(place, random), pixels], dim=1)
        return every[torch.arange(len(kind), device=device), kind][:, None].float()


def _box(place: Tensor, u: Tensor) -> Tensor:
    """Whether places (1, 2, h, w) are in a rectangle (b, h, w), by four uniform numbers (b, 4, 1, 1)."""
    sides = 0.25 + 0.5 * u[:, :2]
    start = u[:, 2:] * (1 - sides)
    return ((place >= start) & (place < start + sides)).all(1)


def _half(place: Tensor, u: Tensor) -> Tensor:
    """Whether they are beyond a line across the image, (b, h, w)."""
    along = torch.where(u[:, 0] < 0.5, place[:, 0], place[:, 1])
    return torch.where(u[:, 1] < 0.5, along, 1 - along) > 0.25 + 0.5 * u[:, 2]


def _stroke(place: Tensor, random: Random) -> Tensor:
    """Whether they are near a broken line, (b, h, w)."""
    points = [random.uniform("stroke start", (2,))]
    for piece in range(_PIECES):
        u = random.uniform(f"stroke {piece}", (2,))
        angle, length = 2 * math.pi * u[:, 0], 0.25 + 0.25 * u[:, 1]
        step = torch.stack([length * angle.cos(), length * angle.sin()], dim=1)
        points.append((points[-1] + step).clamp(0, 1))
    reach = (1 + 2 * random.uniform("stroke width"))[:, None, None] / 16
    found = [_distance(place, a, b) < reach for a, b in itertools.pairwise(points)]
    return torch.stack(found).any(0)


def _distance(place: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """From places (1, 2, h, w) to the piece of a line between points (b, 2), (b, h, w)."""
    a, b = a[:, :, None, None], b[:, :, None, None]
    along, way = place - a, b - a
    share = ((along * way).sum(1) / way.square().sum(1).clamp(min=1e-12)).clamp(0, 1)
    return (along - share[:, None] * way).square().sum(1).sqrt()
