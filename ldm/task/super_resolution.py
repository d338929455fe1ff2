"""Super-resolution: an image drawn that has the given one as its averages over squares of pixels.

The measurement is y = A x + noise with A the mean over squares of factor x factor pixels, and the image is drawn from p(x | y, c)
(ldm.task.inverse), through the decoder of the first stage. An image is first brought to the model's size, as everywhere; its
averages are all that is looked at, so a small image may be given as it is.

Numbers: `psnr` against the image as it was given, which tells something where that one was of full size, and `psnr_bicubic`, that
of bicubic interpolation of the same averages; `consistency`, the root of the mean squared difference between the averages of
the result and those that were given, in units of pixels in [-1, 1]. A drawn image has detail that bicubic interpolation has
not, in places that are one possibility of many: so its PSNR may be lower, and its Fréchet distance (metric) better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt

from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Downsample
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Task
from ldm.task.inverse import Method, check_decoder, check_denoiser, drawn, psnr, through


class SuperResolution(Task):
    """Images with more pixels, whose averages are those of the images given.

    Arguments:
        posterior: how the averages enter: a word of diffusion/posterior.
        factor: side of the squares of pixels that are averaged.
        noise: deviation of the averages, in units of pixels in [-1, 1]: at least the error of the decoder's averages.
    """

    def __init__(self, posterior: Method = MMPS, factor: PositiveInt = 2, noise: NonNegativeFloat = 0.02):
        self.posterior, self.operator, self.noise = posterior, Downsample(factor), noise

    def check(self, model: LatentModel) -> None:
        check_denoiser(self, model)
        check_decoder(self, model)
        sides, factor = model.autoencoder.image_shape[1:], self.operator.factor
        if any(side % factor for side in sides):
            raise ValueError(
                f"task.factor={factor} does not divide this model's images of {sides[1]} x {sides[0]} pixels; take another"
            )

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x, a = batch["image"], self.operator
        y = a(x)
        made = drawn(model, batch, self.posterior, Measurement(through(model, a), y, self.noise), random)
        smooth = F.interpolate(y, x.shape[2:], mode="bicubic", antialias=False).clamp(-1, 1)
        pictures = {"given": x, "averages": a.pseudo_inverse(y), "bicubic": smooth, "made": made}
        off = (a(made) - y).square().flatten(1).mean(1).sqrt()
        return Answer(pictures, {"psnr": psnr(made, x), "psnr_bicubic": psnr(smooth, x), "consistency": off})
