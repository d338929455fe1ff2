"""An image with a hole: what is around it, and where it is (Rombach et al. 2021, section 4.5).

    map = (z of the image continued into its hole, 0 where a latent has no known pixel;  the hole, f x f pixels of it a latent)

The paper encodes the image with its hole grey. An encoder that has never seen such an edge smears it over the latents beside,
and of scattered pixels nothing is left: encoding a smooth continuation was worth 3 to 4 dB to training-free methods
(experiments/LOG.md, 2026-11-26). So the hole is first filled from around (ldm.condition.continuation). The hole's pixels are
folded into channels and not averaged, so that the network knows to the pixel what is given. Latents and not pixels are told,
since a known latent is nearly what is to be drawn there, and a network that copies has not to learn the encoder first.

In training holes are drawn (ldm.condition.holes), and with probability `drop` all is unknown.

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ldm.condition.conditioner import Conditioner
from ldm.condition.continuation import continued
from ldm.condition.holes import Holes
from ldm.condition.spatial import FirstStage, Spatial
from ldm.random import Random
from ldm.types import Probability


class Masked(Spatial):
    """The part of each image that is outside of a hole, for filling in.

    A batch says what is given by `image` (b, c, h, w) and `hole` (b, 1, h, w), 1 where the image is unknown.

    Arguments:
        first: the autoencoder whose latents are conditioned; the model gives it.
        holes: the law of the holes in training.
        of: a condition on something else that is composed with this one, as a label or a text; None is without.
        drop: the probability that an example is trained with all of its image unknown; `of` is dropped by itself.
    """

    def __init__(
        self,
        first: FirstStage,
        holes: Holes | None = None,
        of: Conditioner | None = None,
        drop: Probability = 0.1,
    ):
        channels, height, width = first.latent_shape
        nothing = torch.cat([torch.zeros(channels, height, width), torch.ones(first.factor**2, height, width)])
        super().__init__(first, nothing, of, drop)
        self.holes = holes or Holes()

    def given(self, batch: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
        """The batch with the `hole` of each image, unless it says that itself."""
        if "image" not in batch or "hole" in batch:
            return batch
        return {**batch, "hole": self.holes(tuple(batch["image"].shape[2:]), random)}

    def map(self, batch: Mapping[str, Any]) -> Float[Tensor, "b k h w"] | None:
        if "hole" not in batch:
            return None
        hole, factor = batch["hole"], self.first.factor
        with torch.no_grad():
            known = self.first.encode(continued(batch["image"], 1 - hole)).mean
        unknown = F.avg_pool2d(hole, factor) == 1
        return torch.cat([torch.where(unknown, 0, known), F.pixel_unshuffle(hole, factor)], dim=1)
