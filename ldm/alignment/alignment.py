"""Representation alignment: an inner layer of a backbone is drawn towards what a frozen network sees in the clean image
(REPA, arXiv 2410.06940, section 3.2).

    loss = weight * mean over examples and tokens of 1 - cos(features(x)_n, projection(inner(x_t, t, c))_n)

The projection is a perceptron of three layers with SiLU, which lives in training alone. The features, of one layer or of
several, one after the other, are brought to the grid of the tokens and to unit length, which is all that a cosine asks,
and kept in float16.
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
    """
    Arguments:
        network: what the features are of.
        width, grid: of a token of the inner layer; how many tokens, down and across. Known when the backbone is.
        weight: of the loss; 0.5 in the paper.
        hidden: width inside the projection; `None` is twice the token's, about what the paper has.
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
        """Names all that the features of an image depend on."""
        return f"{self.network.key} {self.grid}"

    @torch.no_grad()
    def features(self, x: Image) -> Float16[Tensor, "b _d _h _w"]:
        """What is aligned with, (b, d, *grid): of unit length, or zero where the network sees nothing."""
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(torch.cat([self._seen(each) for each in self.network(x)], dim=1)).half()

    def _seen(self, x: Float[Tensor, "b d _h _w"]) -> Float[Tensor, "b d _h2 _w2"]:
        x = F.interpolate(x.float(), size=self.grid, mode="bilinear", antialias=True, align_corners=False)
        return F.normalize(x)

    def forward(self, inner: Tensor, feature: Float[Tensor, "b d _h _w"]) -> Float[Tensor, ""]:
        """The weighted loss of an inner layer's output, (b, width, *grid), (b, n, width) or, for one token, (b, width),
        and the features of the same images."""
        projected = self.projection(_tokens(inner))
        with torch.autocast(projected.device.type, enabled=False):
            cosine = F.cosine_similarity(projected.float(), _tokens(feature.float()), dim=2)
        return self.weight * (1 - cosine).mean()


def _tokens(x: Tensor) -> Float[Tensor, "b n d"]:
    """A map's pixels row by row, tokens as they are, one vector as one token."""
    return rearrange(x, "b c h w -> b (h w) c") if x.ndim == 4 else x.view(len(x), -1, x.shape[-1])
