"""Perceptual distances: how different two images look, beyond the differences of their pixels.

`LaplacianPyramid` needs no network. It sums the mean absolute differences of band-pass images of one octave each (Burt and
Adelson, The Laplacian Pyramid as a Compact Image Code (1983), doi 10.1109/TCOM.1983.1095851). As means over pixels, coarse
bands, which have fewer pixels, count as much as fine ones (Bojanowski et al. 2017, section 3, as a loss for generators).
Distances in the features of a frozen network are in ldm.loss.feature_distance.

A distance d(x, y) has gradients for y, the reconstruction. A network that it uses is frozen and in evaluation mode. It is
kept outside of the module tree, so that it is not part of checkpoints, averages, parameter counts or DDP's broadcasts: it
never changes, and is named by where it came from.

Sources:
    Bojanowski et al., Optimizing the Latent Space of Generative Networks (2017), arXiv 1707.05776
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
    """A distance of images, 0 for equal ones. A new one writes `forward`."""

    @abstractmethod
    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        """The distances (b,) of images x and y (b, c, h, w) in [-1, 1], float32, with gradients for y."""


class LaplacianPyramid(Perceptual):
    """The sum of the mean absolute differences of the bands of a Laplacian pyramid, for images of any number of channels.

    Arguments:
        bands: number of octaves; small images have fewer. The low-pass image that remains counts as another band.
    """

    def __init__(self, bands: PositiveInt = 4):
        super().__init__()
        self.bands = bands
        line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        # Bands are linear in the image, so the bands of the difference are the differences of the bands.
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
        # As a mean over pixels, band j has the weight 4^j of the paper, relative to sums.
        return rearrange(band.abs(), "(b c) 1 h w -> b (c h w)", b=examples).mean(1)
