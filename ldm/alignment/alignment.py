"""Representation alignment: an additional loss that makes an inner layer of a backbone, given the noisy latent, predict the
features that a frozen pretrained network has of the clean image (REPA, Yu et al. 2024, section 3.2).

    loss = weight * mean over examples and tokens n of 1 - cos(features(x)_n, projection(inner(x_t, t, c))_n)

The projection is a perceptron of three layers with SiLU, which exists in training only. The features are those of one layer,
or those of several layers concatenated. They are interpolated to the grid of the tokens and scaled to unit length, since a
cosine does not depend on lengths, and kept in float16.

Sources:
    Yu et al., Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than You Think
        (2024), arXiv 2410.06940
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Float16
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.alignment.maps import Maps
from ldm.types import Image


class Alignment(nn.Module):
    """The alignment loss with its projection.

    Arguments:
        network: the frozen network that the features are of.
        width: of a token of the inner layer; the backbone gives it.
        grid: numbers of tokens of the inner layer along height and width; the backbone gives them.
        weight: of the loss; 0.5 in the paper.
        hidden: width inside the projection; `None` is twice the width of a token, which is about that of the paper.
    """

    def __init__(
        self,
        network: Maps,
        width: PositiveInt,
        grid: tuple[PositiveInt, PositiveInt],
        weight: NonNegativeFloat = 0.5,
        hidden: PositiveInt | None = None,
    ):
        super().__init__()
        self.network, self.grid, self.weight = network, tuple(grid), weight
        hidden, features = hidden or 2 * width, self.features(torch.zeros(1, 3, 32, 32)).shape[1]
        self.projection = nn.Sequential(
            *(nn.Linear(width, hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.SiLU()),
            nn.Linear(hidden, features),
        )

    @property
    def key(self) -> str:
        """A text that names everything on which the features of an image depend: network, weights and grid."""
        return f"{self.network.key} {self.grid}"

    @torch.no_grad()
    def features(self, x: Image) -> Float16[Tensor, "b _d _h _w"]:
        """The features of images (b, c, h, w), (b, d, *grid), of unit length at each place, or zero where all are zero."""
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(torch.cat([self._seen(each) for each in self.network(x)], dim=1)).half()

    def _seen(self, x: Float[Tensor, "b d _h _w"]) -> Float[Tensor, "b d _h2 _w2"]:
        x = F.interpolate(x.float(), size=self.grid, mode="bilinear", antialias=True, align_corners=False)
        return F.normalize(x)

    def forward(self, inner: Tensor, feature: Float[Tensor, "b d _h _w"]) -> Float[Tensor, ""]:
        """The weighted loss.

        Arguments:
            inner: output of the inner layer: (b, width, *grid), (b, n, width), or (b, width) for one token.
            feature: the features of the same images, (b, d, *grid).
        """
        projected = self.projection(_tokens(inner))
        with torch.autocast(projected.device.type, enabled=False):
            cosine = F.cosine_similarity(projected.float(), _tokens(feature.float()), dim=2)
        return self.weight * (1 - cosine).mean()


def _tokens(x: Tensor) -> Float[Tensor, "b n d"]:
    """A map's pixels in row-major order as tokens, tokens as they are, and a vector as one token."""
    return rearrange(x, "b c h w -> b (h w) c") if x.ndim == 4 else x.view(len(x), -1, x.shape[-1])
