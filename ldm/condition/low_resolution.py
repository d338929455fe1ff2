"""An image in few pixels, under noise of a level that is told: for enlarging (Ho et al. 2021; Saharia et al. 2021).

    y = A x + sigma eps,    map = (z of y enlarged,  sqrt(1 - s^2) y,  s),    s = sigma / sqrt(1 + sigma^2),

with A the mean over squares of `factor` x `factor` pixels. In training sigma is uniform from 0 to `noise`: the network then
does not lean on the last bit of y, which of a real small image, or of one that another model has drawn, is not that of A x
(conditioning augmentation, Ho et al. 2021, section 4). s is a channel of the map, and 1, the limit of infinite noise, where
nothing is given. In evaluation y is given without noise.

y is told twice: as the latent of its bicubic enlargement, which is near what is to be drawn, so that the network has not to learn
the encoder first; and to the number, its pixels folded into channels, where a latent stands for whole pixels of y. With pixels
alone, as Rombach et al. 2021 (section 4.4) do, PSNR was 23.1 dB after 1,000 updates and not 23.4 (experiments/tasks).

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
        (channels, *sides), (latent, height, width) = first.image_shape, first.latent_shape
        if any(side % factor for side in sides):
            good = ", ".join(str(n) for n in range(2, min(sides) + 1) if not any(side % n for side in sides))
            raise ValueError(
                f"condition.factor={factor} is to divide images of {sides[1]} x {sides[0]} pixels; take one of {good}"
            )
        folded = channels * (first.factor // factor) ** 2 if first.factor % factor == 0 else 0
        nothing = torch.cat([torch.zeros(latent + folded, height, width), torch.ones(1, height, width)])
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
        y, sigma, first = batch["low_resolution"], batch["low_noise"][:, None, None, None], self.first
        length = (1 + sigma.square()).sqrt()
        with torch.no_grad():
            z = first.encode(F.interpolate(y, first.image_shape[1:], mode="bicubic", align_corners=False)).mean
        parts = [z, (sigma / length).expand(-1, -1, *z.shape[2:])]
        if first.factor % self.factor == 0:
            parts.insert(1, F.pixel_unshuffle(y / length, first.factor // self.factor))
        return torch.cat(parts, dim=1)
