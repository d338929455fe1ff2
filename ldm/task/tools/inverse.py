"""What tasks that solve an inverse problem share: an image is drawn from p(x | y, c), y a measurement of what is given.

The prior's denoiser becomes one that knows y (ldm.diffusion.posterior), and whatever sampler, grid, schedule and guidance
the run has draw by it. y is of pixels: y = A(decode(z)) + noise, with the decoder inside and differentiated through. How far
the decoder's images are from real ones is a noise of the measurement, too, so `noise` should be that large: of a compressor
it is the error of its reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.operator import Composed, Operator
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.task.base import Task, lacks
from ldm.types import Image, Time

Method = Callable[[Denoiser, Measurement], Denoiser]
"""What makes of a denoiser one that knows a measurement, a word of conf/diffusion/posterior."""


def check_denoiser(task: Task, model: LatentModel) -> None:
    """ValueError where the model's prior has no denoiser."""
    lacks(task, model, Diffusion, "a denoiser (diffusion or flow matching)")


def check_decoder(task: Task, model: LatentModel) -> None:
    """ValueError where no derivative goes through the model's decoder."""
    if model.autoencoder.gives == "codes":
        raise ValueError(
            f"task={task.word} asks for derivatives through the decoder, and this model's first stage quantises before it; take "
            "a run with autoencoder=kl_f4 or the like"
        )


def through(model: LatentModel, operator: Operator) -> Operator:
    """A measurement of images as one of the latents that the prior models."""
    return Composed(operator, model.autoencoder.decode)


def drawn(
    model: LatentModel, batch: Mapping[str, Any], method: Method, measurement: Measurement, random: Random
) -> Image:
    """An image of each row drawn from p(x | y, c), (b, c, h, w) in [-1, 1]."""
    prior: Diffusion = model.prior
    noise = random.normal("prior", tuple(prior.latents.shape))
    return model.decode(prior.cleaned(noise, method(prior.guided(), measurement), model.condition(batch), random))


def psnr(x: Image, y: Image, where: Float[Tensor, "b 1 h w"] | None = None) -> Time:
    """10 log10 (4 / mean squared error) in decibels of images in [-1, 1], (b,), over the pixels where `where` is 1."""
    where = torch.ones_like(x) if where is None else where.expand_as(x)
    error = (where * (x - y).square()).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * (4 / error.clamp(min=1e-10)).log10()
