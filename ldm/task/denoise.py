"""Removing noise of a known standard deviation from an image.

    denoised    E[x | y, c], the image of the least squared error on the average: smooth where the noise hides what is there
    sampled     one image drawn from p(x | y, c): as sharp as real ones, with twice the squared error

Of a model of pixels y is x_t / alpha_t of the diffusion itself, at the time of that noise level. So the first is one call of its
denoiser, and the second begins to sample there. Where the pixels' channels are whitened by different numbers, the channels
of less noise are given more until all have the level of the worst.

Of a model of latents y is a measurement, y = decode(z) + noise (ldm.task.tools.inverse), and the first is the mean of `draws` of
the second, on which 1 / draws of its variance is left.

Numbers: `psnr` of the first and `psnr_sampled` of the second against the image as it was given, and with `add` `psnr_noisy`, that
of the noisy image. Without `add` the image given is the noisy one, and they only say how much it was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt

from ldm.diffusion.denoiser import along
from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Identity
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.task.base import Answer, Task
from ldm.task.tools.inverse import Method, check_decoder, check_denoiser, drawn, psnr, through
from ldm.types import Image


class Denoise(Task):
    """Images without their noise.

    Arguments:
        posterior: of models of latents, how the noisy image enters: a word of diffusion/posterior.
        sigma: standard deviation of the noise, in units of pixels in [-1, 1]; 0.2 is 25 of 255 grey levels.
        add: whether the noise is added first, to images without noise, to measure what is left of it.
        draws: of models of latents, how many draws `denoised` is the mean of.
    """

    def __init__(self, posterior: Method = MMPS, sigma: PositiveFloat = 0.2, add: bool = False, draws: PositiveInt = 4):
        self.sigma, self.posterior, self.add, self.draws = sigma, posterior, add, draws

    def check(self, model: LatentModel) -> None:
        check_denoiser(self, model)
        if model.autoencoder.gives != "pixels":
            check_decoder(self, model)

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x = batch["image"]
        noise = random.normal("noise of the image", tuple(x.shape[1:])) if self.add else torch.zeros_like(x)
        y = x + self.sigma * noise
        solve = self._of_pixels if model.autoencoder.gives == "pixels" else self._of_latents
        mean, sample = solve(model, batch, y, random)
        noisy = {"noisy": y.clamp(-1, 1)} if self.add else {}
        numbers = {"psnr": psnr(mean, x), "psnr_sampled": psnr(sample, x)}
        numbers |= {"psnr_noisy": psnr(y.clamp(-1, 1), x)} if self.add else {}
        return Answer({"given": x, **noisy, "denoised": mean, "sampled": sample}, numbers)

    def _of_pixels(self, model: LatentModel, batch: Mapping[str, Any], y: Image, random: Random) -> tuple[Image, Image]:
        prior: Diffusion = model.prior
        denoiser, c = prior.guided(), model.condition(batch)
        levels = self.sigma / model.autoencoder.latent_std
        worst = levels.max()
        more = (worst**2 - levels**2).clamp(min=0).sqrt().view(-1, 1, 1)
        z = model.autoencoder.encode(y).mean + more * random.normal("noise to level", tuple(y.shape[1:]))
        t = denoiser.schedule.time(-2 * worst.log().expand(len(y)))
        x_t = along(denoiser.schedule.alpha_sigma(t)[0], z) * z
        mean = denoiser(x_t, t, c)
        grid = prior.grid(denoiser.schedule, prior.steps, prior.lowest(denoiser.schedule))
        times = torch.cat([t[:1].cpu(), grid[grid < t[0].item()]])
        return model.decode(mean), model.decode(prior.sampler(denoiser, x_t, times, c, random))

    def _of_latents(
        self, model: LatentModel, batch: Mapping[str, Any], y: Image, random: Random
    ) -> tuple[Image, Image]:
        measurement = Measurement(through(model, Identity()), y, self.sigma)
        samples = [
            drawn(model, batch, self.posterior, measurement, Random(random.seed, draw, random.rows))
            for draw in range(self.draws)
        ]
        return torch.stack(samples).mean(0), samples[0]
