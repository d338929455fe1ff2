"""How different two images look: distances beyond that of pixels.

`LaplacianPyramid` needs no network: band-pass images of an octave each (Burt and Adelson 1983), compared absolutely and
weighted 4^j so that coarse bands, which have fewer pixels, count alike (arXiv 1707.05776, section 3; there as a loss
for generators). Distances in the features of a frozen network are in `ldm.loss.features`.

A distance d(x, y) has gradients for y, the reconstruction, through whatever network it holds. That network is frozen,
in evaluation mode; it is held outside the module tree, so it is no part of a checkpoint, an average, a count of
parameters or DDP's broadcasts: it is named by where it came from, and never changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.types import Image


class Perceptual(nn.Module, ABC):
    """How different images look; 0 for equal ones."""

    @abstractmethod
    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        """(b,) distances of images (b, c, h, w) in [-1, 1], float32, with gradients for y."""


class LaplacianPyramid(Perceptual):
    """Mean absolute differences of Laplacian bands, for any channels: edges and flat colours alike, no download.

    Arguments:
        bands: octaves at most; fewer where the image is small. The rest, a small picture, counts as one more.
    """

    def __init__(self, bands: PositiveInt = 4):
        super().__init__()
        self.bands = bands
        line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        # Bands are linear in the image: those of the difference are the differences of the bands.
        rest = rearrange(x.float() - y.float(), "b c h w -> (b c) 1 h w")
        total = rest.new_zeros(len(x))
        for _ in range(self.bands):
            if min(rest.shape[-2:]) < 4:
                break
            smooth = self._smooth(rest)
            total = total + self._size(rest - smooth, len(x))
            rest = smooth[..., ::2, ::2]
        return total + self._size(rest, len(x))

    def _smooth(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), self.kernel)

    @staticmethod
    def _size(band: Float[Tensor, "n 1 h w"], examples: int) -> Float[Tensor, " b"]:
        # A mean is the sum times 4^j / pixels.
        return rearrange(band.abs(), "(b c) 1 h w -> b (c h w)", b=examples).mean(1)
