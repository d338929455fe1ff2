"""What a model holds possible of an image that it knows under noise alone: k draws of what may be below.

    z_1 ... z_k ~ p(z | x_t, c),    x_t = alpha(t) z + sigma(t) eps

and of decode(z_i) the mean, the deviation of each pixel, and the error of the mean, side by side. Where the model's law is
the data's, the image given is as one of the draws, so that with m and s^2 the mean and the variance of k draws

    E (x - m)^2 = (1 + 1/k) E s^2

    calibration    mean (x - m)^2 / ((1 + 1/k) mean s^2), of pixels, x being what the first stage makes of the image: 1 where the
                   deviation is as large as the error, above where the model is too sure of itself
    agreement      the rank correlation (Spearman) of |x - m| and s over pixels: whether it knows where it is unsure
    error          root mean square of x - m

What makes it fail: a sampler of the ODE, of which all draws are one (a stochastic one is taken here); few steps of a stochastic
one; guidance, which narrows what is drawn; few draws, of which a deviation is a guess. What a first stage loses is not seen here.

Source: Gneiting et al., Probabilistic Forecasts, Calibration and Sharpness (2007), doi 10.1111/j.1467-9868.2007.00587.x, on what
calibrated means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random, seed_of
from ldm.task.base import Answer, Task, lacks
from ldm.task.tools.partway import cleaned, noised


class Uncertainty(Task):
    """Draws of an image from its latent under noise: their mean, deviation and error, and whether the deviation is right.

    Arguments:
        noise: the time t of the noise, of the schedule that samples; 1 is pure noise.
        draws: k.
        steps: of the sampler on the whole way from t = 1; in few a stochastic one draws too narrowly.
        sampler: one that adds noise; by default DDIM with eta 1, which is ancestral sampling.
    """

    def __init__(
        self,
        noise: Annotated[float, Field(gt=0, le=1)] = 0.5,
        draws: Annotated[int, Field(ge=2)] = 8,
        steps: PositiveInt = 100,
        sampler: Sampler | None = None,
    ):
        self.noise, self.draws, self.steps, self.sampler = noise, draws, steps, sampler or DDIM(eta=1.0)
        if not self.sampler.stochastic:
            raise ValueError(
                f"task.sampler: {type(self.sampler).__name__} adds no noise, so all draws were one; take ddpm or ddim with eta=1"
            )

    def check(self, model: LatentModel) -> None:
        lacks(self, model, Diffusion, "a denoiser")

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        own, c = model.autoencoder, model.condition(batch)
        z = own.encode(batch["image"]).mean
        x = own.decode(z).float().clamp(-1, 1)
        x_t = noised(model.prior, z, self.noise, random)
        rows = (Random(seed_of(random.seed, "draw", i), 0, random.rows) for i in range(self.draws))
        z_k = (cleaned(model.prior, x_t, self.noise, c, each, self.sampler, self.steps) for each in rows)
        drawn = torch.stack([own.decode(each).float().clamp(-1, 1) for each in z_k])
        mean, deviation = drawn.mean(0), drawn.std(0)
        error = (x - mean).abs()
        expected = (1 + 1 / self.draws) * deviation.square().flatten(1).mean(1)
        numbers = {
            "calibration": error.square().flatten(1).mean(1) / expected,
            "agreement": rank_correlation(error.flatten(1), deviation.flatten(1)),
            "error": error.square().flatten(1).mean(1).sqrt(),
        }
        under = own.decode(x_t).float().clamp(-1, 1)
        pictures = {"given": batch["image"], "under noise": under, "draw 1": drawn[0], "draw 2": drawn[1], "mean": mean}
        maps = {"deviation": deviation.clamp(max=1) * 2 - 1, "error": error.clamp(max=1) * 2 - 1}
        return Answer(pictures | maps, numbers)


def rank_correlation(x: Float[Tensor, "b n"], y: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Spearman's correlation of each row; ties are in the order of their places. NaN where one of the two does not vary."""
    varies = (x.std(1) > 0) & (y.std(1) > 0)
    ranks = [each.argsort(dim=1, stable=True).argsort(dim=1).double() for each in (x, y)]
    a, b = (each - each.mean(1, keepdim=True) for each in ranks)
    found = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return found.where(varies, torch.nan)
