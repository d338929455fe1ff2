"""Inpainting: a hole of an image filled with what fits to the rest.

Outside the hole the result is the given image itself; inside it is the model's, moved by the membrane that takes the step at the
border out (ldm.task.tools.membrane). A run with `condition=masked` draws by what it has learnt, of any prior that takes it
(ldm.task.tools.trained). Of any other diffusion, or with a method named, what is kept is a measurement, y = (1 - hole) x + noise,
and the image is drawn from p(x | y, c) (ldm.task.tools.inverse). Two ways to say y:

    through_decoder=true     y is of pixels, with the decoder inside: exact about the border of the hole, whatever its shape.
    through_decoder=false    y is of latents: the image, with a membrane in its hole, is encoded, and a latent is known where
                             all of its pixels are. No derivative of the decoder is asked, so it is cheaper. But an encoder
                             sees beyond the pixels of a latent, so latents beside the hole are known wrongly; and many small
                             holes leave none that is known. Of models of pixels both are the same.

Numbers: `psnr`, of the hole against the image as it was given, which tells something where the image is whole; `psnr_membrane`,
that of the membrane alone; and `psnr_kept`, of what the model drew outside of the hole before it was replaced, which should be as
good as its reconstructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from ldm.condition.masked import Masked
from ldm.diffusion.posterior.base import Measurement
from ldm.diffusion.posterior.mmps import MMPS
from ldm.diffusion.posterior.operator import Mask
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Task
from ldm.task.tools.hole import Drawn, Hole, hole_of
from ldm.task.tools.inverse import Method, check_decoder, check_denoiser, drawn, psnr, through
from ldm.task.tools.membrane import membrane, seamless
from ldm.task.tools.trained import check_free, named, trained
from ldm.types import Image


class Inpaint(Task):
    """A hole of each image filled with what fits to the rest.

    Arguments:
        mask: where: half, box or random, or a file of the model's size, white where it is to be filled in;
            in Python a `Hole` as well.
        posterior: how what is kept enters: a word of diffusion/posterior. None is the condition that the run was trained with
            or, where it was not, mmps.
        noise: of a method, deviation of what is kept, in units of pixels in [-1, 1], or of latents: at least the error of the
            decoder; None is 0.05.
        through_decoder: of a method, whether what is kept is compared in pixels, and not in latents; None is true.
    """

    def __init__(
        self,
        mask: str | Hole,
        posterior: Method | None = None,
        noise: NonNegativeFloat | None = None,
        through_decoder: bool | None = None,
    ):
        self.hole, self.posterior, self.noise, self.through_decoder = hole_of(mask), posterior, noise, through_decoder

    def check(self, model: LatentModel) -> None:
        condition = trained(model, Masked, self.posterior)
        if condition is not None:
            check_free(self, condition, {"noise": self.noise, "through_decoder": self.through_decoder})
        else:
            check_denoiser(self, model)
            if self._through_decoder:
                check_decoder(self, model)
        if isinstance(self.hole, Drawn):
            self.hole.check(model.autoencoder.image_shape[1:])

    def way(self, model: LatentModel) -> str:
        return named(trained(model, Masked, self.posterior), self.posterior or MMPS)

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x = batch["image"]
        hole = self.hole(tuple(x.shape[2:]), random)
        if trained(model, Masked, self.posterior) is not None:
            made = model.sample({**batch, "hole": hole}, random)
        else:
            made = drawn(model, batch, self.posterior or MMPS, self._kept(model, x, hole), random)
        whole, smooth = seamless(x, made, hole), membrane(x, hole)
        pictures = {"given": x, "kept": torch.where(hole > 0, 0, x), "filled": whole}
        numbers = {"psnr": psnr(whole, x, hole), "psnr_membrane": psnr(smooth, x, hole)}
        return Answer(pictures, numbers | {"psnr_kept": psnr(made, x, 1 - hole)})

    def _kept(self, model: LatentModel, x: Image, hole: Float[Tensor, "b 1 h w"]) -> Measurement:
        """What is kept, as a measurement of latents."""
        noise = 0.05 if self.noise is None else self.noise
        if self._through_decoder:
            operator = Mask(1 - hole)
            return Measurement(through(model, operator), operator(x), noise)
        known = Mask(known_latents(hole, model.autoencoder.factor))
        return Measurement(known, known(model.autoencoder.encode(membrane(x, hole)).mean), noise)

    @property
    def _through_decoder(self) -> bool:
        return self.through_decoder in (None, True)


def known_latents(hole: Float[Tensor, "b 1 h w"], factor: int) -> Float[Tensor, "b 1 lh lw"]:
    """1 for latents (b, 1, h / factor, w / factor) none of whose pixels is in the hole. ValueError where a row has none."""
    known = 1 - F.max_pool2d(hole, factor)
    if not known.flatten(1).any(1).all():
        raise ValueError(
            f"no latent, of {factor} x {factor} pixels, is wholly outside of the mask, so latents know nothing of the image; "
            "take task.through_decoder=true"
        )
    return known
