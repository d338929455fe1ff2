"""An image in few pixels, under noise of a level that is told: for enlarging (Ho et al. 2021; Saharia et al. 2021).

    y = A x + sigma eps,    map = (sqrt(1 - s^2) y,  s),    s = sigma / sqrt(1 + sigma^2),

with A the mean over squares of `factor` x `factor` pixels. In training sigma is uniform from 0 to `noise`: the network then
does not lean on the last bit of y, which of a real small image, or of one that another model has drawn, is not that of A x
(conditioning augmentation, Ho et al. 2021, section 4). s is a channel of the map; at s = 1, where nothing is left of y, the map
is the one that says that nothing is given. In evaluation y is given without noise.

Where a latent stands for several pixels of y, those are folded into channels; where for less than one, y is interpolated
bilinearly.

Sources:
    Ho et al., Cascaded Diffusion Models for High Fidelity Image Generation (2021), arXiv 2106.15282
    Saharia et al., Image Super-Resolution via Iterative Refinement (2021), arXiv 2104.07636
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from ldm.condition.conditioner import Conditioner
from ldm.condition.spatial import FirstStage, Spatial
from ldm.random import Random
from ldm.types import Image, Probability


class LowResolution(Spatial):
    """Each image in fewer pixels, for enlarging.

    A batch says what is given by `low_resolution` (b, c, h / factor, w / factor) and by the deviation of its noise, `low_noise`
    (b,).

    Arguments:
        first: the autoencoder whose latents are conditioned; the model gives it.
        factor: side of the squares of pixels of which the means are given.
        noise: the greatest deviation of noise that is added to them in training, in units of pixels in [-1, 1].
        of: a condition on something else that is composed with this one, as a label or a text; None is without.
        drop: the probability that an example is trained with nothing given of its image; `of` is dropped by itself.
    """

    def __init__(
        self,
        first: FirstStage,
        factor: PositiveInt = 2,
        noise: NonNegativeFloat = 0.5,
        of: Conditioner | None = None,
        drop: Probability = 0.1,
    ):
        (channels, *sides), (_, height, width) = first.image_shape, first.latent_shape
        if any(side % factor for side in sides) or (first.factor % factor and factor % first.factor):
            raise ValueError(
                f"condition.factor={factor} is to divide images of {sides[1]} x {sides[0]} pixels, and to divide the first "
                f"stage's factor {first.factor} or be a multiple of it; take {_near(sides, first.factor)}"
            )
        fold = max(first.factor // factor, 1) ** 2
        nothing = torch.cat([torch.zeros(channels * fold, height, width), torch.ones(1, height, width)])
        super().__init__(first, nothing, of, drop)
        self.factor, self.noise = factor, noise

    def small(self, x: Image) -> Float[Tensor, "b c sh sw"]:
        """A x, (b, c, h / factor, w / factor)."""
        return F.avg_pool2d(x, self.factor)

    def given(self, batch: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
        """The batch with y of each image, unless it says that itself; under noise in training alone."""
        if "image" not in batch or "low_resolution" in batch:
            return batch
        y = self.small(batch["image"])
        if not self.training:
            return {**batch, "low_resolution": y, "low_noise": torch.zeros_like(y[:, 0, 0, 0])}
        sigma = self.noise * random.uniform("low noise")
        y = y + sigma[:, None, None, None] * random.normal("low resolution", tuple(y.shape[1:]))
        return {**batch, "low_resolution": y, "low_noise": sigma}

    def map(self, batch: Mapping[str, Any]) -> Float[Tensor, "b k h w"] | None:
        if "low_resolution" not in batch:
            return None
        y, sigma = batch["low_resolution"], batch["low_noise"][:, None, None, None]
        y = y / (1 + sigma.square()).sqrt()
        sides, factor = tuple(self.nothing.shape[1:]), self.first.factor
        if factor >= self.factor:
            y = F.pixel_unshuffle(y, factor // self.factor)
        else:
            y = F.interpolate(y, sides, mode="bilinear", align_corners=False)
        return torch.cat([y, (sigma / (1 + sigma.square()).sqrt()).expand(-1, -1, *sides)], dim=1)


def _near(sides: list[int], factor: int) -> str:
    """The factors that can be taken, of an image's sides and a first stage's factor."""
    good = [n for n in range(2, min(sides) + 1) if not any(side % n for side in sides)]
    return ", ".join(str(n) for n in good if not (factor % n and n % factor)) or "other images: none divides them"
