"""Super-resolution: an image drawn that has the given one as its averages over squares of pixels.

The measurement is y = A x + noise with A the mean over squares of factor x factor pixels. A run with `condition=low_resolution`
draws by what it has learnt, of its own factor and of any prior that takes it (ldm.task.tools.trained), and is told the noise. Of
any other diffusion, or with a method named, the image is drawn from p(x | y, c) (ldm.task.tools.inverse), through the decoder of
the first stage. An image is first brought to the model's size, as everywhere; its averages are all that is looked at, so a small
image may be given as it is.

Numbers: `psnr` against the image as it was given, which tells something where that one was of full size, and `psnr_bicubic`, that
of bicubic interpolation of the same averages; `consistency`, the root of the mean squared difference between the averages of
the result and those that were given, in units of pixels in [-1, 1]. A drawn image has detail that bicubic interpolation has
not, in places that are one possibility of many: so its PSNR may be lower, and its Fréchet distance (metric) better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt

from ldm.condition.low_resolution import LowResolution
from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Downsample
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Task
from ldm.task.tools.inverse import Method, check_decoder, check_denoiser, drawn, psnr, through
from ldm.task.tools.trained import named, trained


class SuperResolution(Task):
    """Images with more pixels, whose averages are those of the images given.

    Arguments:
        posterior: how the averages enter: a word of diffusion/posterior. None is the condition that the run was trained with or,
            where it was not, mmps.
        factor: side of the squares of pixels that are averaged. None is the one that the run was trained with, or 2.
        noise: deviation of the averages as they are given, in units of pixels in [-1, 1]. None is 0 of a trained condition and,
            of a method, 0.02: at least the error of the decoder's averages.
    """

    def __init__(
        self,
        posterior: Method | None = None,
        factor: PositiveInt | None = None,
        noise: NonNegativeFloat | None = None,
    ):
        self.posterior, self.factor, self.noise = posterior, factor, noise

    def check(self, model: LatentModel) -> None:
        condition = trained(model, LowResolution, self.posterior)
        if condition is not None:
            self._check_trained(condition)
            return
        check_denoiser(self, model)
        check_decoder(self, model)
        sides, factor = model.autoencoder.image_shape[1:], self._operator(None).factor
        if any(side % factor for side in sides):
            raise ValueError(
                f"task.factor={factor} does not divide this model's images of {sides[1]} x {sides[0]} pixels; take another"
            )

    def _check_trained(self, condition: LowResolution) -> None:
        """ValueError where the run was trained for something else than is asked."""
        if self.factor not in (None, condition.factor):
            raise ValueError(
                f"task.factor={self.factor}: this run was trained for factor {condition.factor}; leave task.factor out, or take "
                "a method without training: diffusion/posterior=mmps"
            )
        if self.noise is not None and self.noise > condition.noise:
            raise ValueError(
                f"task.noise={self.noise:g}: this run was trained for averages with noise of at most {condition.noise:g} "
                "(condition.noise)"
            )

    def way(self, model: LatentModel) -> str:
        return named(trained(model, LowResolution, self.posterior), self.posterior or MMPS)

    def _operator(self, condition: LowResolution | None) -> Downsample:
        return Downsample(self.factor or (2 if condition is None else condition.factor))

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        condition = trained(model, LowResolution, self.posterior)
        x, a = batch["image"], self._operator(condition)
        y = a(x)
        if condition is not None:
            given = {"low_resolution": y, "low_noise": torch.full_like(y[:, 0, 0, 0], self.noise or 0.0)}
            made = model.sample({**batch, **given}, random)
        else:
            noise = 0.02 if self.noise is None else self.noise
            made = drawn(model, batch, self.posterior or MMPS, Measurement(through(model, a), y, noise), random)
        smooth = F.interpolate(y, x.shape[2:], mode="bicubic", antialias=False).clamp(-1, 1)
        pictures = {"given": x, "averages": a.pseudo_inverse(y), "bicubic": smooth, "made": made}
        off = (a(made) - y).square().flatten(1).mean(1).sqrt()
        return Answer(pictures, {"psnr": psnr(made, x), "psnr_bicubic": psnr(smooth, x), "consistency": off})
