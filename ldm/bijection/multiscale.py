"""One level of a multiscale flow: squeeze, transform, and send one half of the channels through what is below.

    y_1, y_2 = steps(squeeze(x)),        unsqueeze(below(y_1), y_2)

(Dinh et al. 2016, section 3.6). A half that leaves early is not resampled or dropped but stays in its place: the result has the
shape of x, so the level is a bijection as any other, and all of its noise is there to invert it. Half of the numbers of each
level are spared the work of the levels below.

The second half leaves. Where the last step is a coupling that moves it given the first half, this is the learnt conditional
Gaussian of the half that leaves in the code of Kingma and Dhariwal (2018).

Sources:
    Dinh et al., Density Estimation Using Real NVP (2016), arXiv 1605.08803
    Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018), arXiv 1807.03039
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.bijection.base import Bijection, Map
from ldm.bijection.squeeze import Squeeze
from ldm.types import Context

Shape = tuple[int, int, int]
"""(c, h, w) of a map."""


class Multiscale(Bijection):
    """A level: squeezed maps through `steps`, and the first half of their channels through `below`; then unsqueezed.

    Arguments:
        steps: of maps (b, 4 c, h / 2, w / 2).
        below: of maps (b, 2 c, h / 2, w / 2), the first half of the channels; None where nothing is below.
    """

    def __init__(self, steps: Bijection, below: Bijection | None = None):
        super().__init__()
        self.squeeze, self.steps, self.below = Squeeze(), steps, below

    def forward(self, x: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        y, log_det = self.steps(self.squeeze(x, c)[0], c)
        if self.below is not None:
            goes_on, leaves = y.chunk(2, dim=1)
            goes_on, more = self.below(goes_on, c)
            y, log_det = torch.cat([goes_on, leaves], 1), log_det + more
        return self.squeeze.inverse(y, c)[0], log_det

    def inverse(self, y: Map, c: Context) -> tuple[Map, Float[Tensor, " b"]]:
        x, log_det = self.squeeze(y, c)
        if self.below is not None:
            goes_on, leaves = x.chunk(2, dim=1)
            goes_on, log_det = self.below.inverse(goes_on, c)
            x = torch.cat([goes_on, leaves], 1)
        x, more = self.steps.inverse(x, c)
        return self.squeeze.inverse(x, c)[0], log_det + more

    def begin(self, x: Map, c: Context) -> Map:
        y = self.steps.begin(self.squeeze(x, c)[0], c)
        if self.below is not None:
            goes_on, leaves = y.chunk(2, dim=1)
            y = torch.cat([self.below.begin(goes_on, c), leaves], 1)
        return self.squeeze.inverse(y, c)[0]


def squeezed(shape: Shape) -> Shape:
    """The shape of a squeezed map of `shape`."""
    channels, height, width = shape
    return 4 * channels, height // 2, width // 2


def halved(shape: Shape) -> Shape:
    """The shape of one half of its channels."""
    return shape[0] // 2, *shape[1:]


def levels_of(shape: Shape, wanted: int | None, most: int = 3) -> int:
    """How many times maps of `shape` are squeezed: as `wanted` or, by default, while both sides are even and more than 2, at
    most three times, and once where there is nothing else to make channels of.

    Raises:
        ValueError: sides cannot be halved so often.
    """
    channels, height, width = shape
    possible, sensible = 0, 0
    while height % 2 == 0 and width % 2 == 0:
        possible += 1
        sensible += min(height, width) > 2
        height, width = height // 2, width // 2
    if wanted is None:
        return max(min(sensible, most), int(channels == 1 and possible > 0))
    if wanted > possible:
        raise ValueError(
            f"levels={wanted}: each halves both sides, and those of latents {shape} can be halved "
            f"{possible} times: take levels={possible} or fewer, or leave it out"
        )
    return wanted
