"""How unlike the training data an image is, by every score that the model can give; higher is stranger.

Of a prior with densities (`Likelihood`), of latents z ~ q(z|x); where there is no first stage p(z) is P(x) of the levels of the
pixels, with the noise of a level and the Jacobians of ldm.metric.bits_per_dim:

    nll           -log p(z)
    typicality    |-log p(z) - H|, H the mean of -log p(z) over `reference` images (Nalisnick et al. 2019): what is much more
                  probable than the training data is no part of them
    ratio         log p_0(z) - log p(z), with `background`, a run on other or spoilt images, whose p_0 knows what is common to
                  all images (Ren et al. 2019)
    complexity    -log p(z) - L(x), L the length in nats of the image as PNG (Serra et al. 2019): plain images are probable
                  everywhere

Of a diffusion, at each of `levels`, times t of the schedule of training (Graham et al. 2022 measure with more steps):

    denoising_t   |z - E[z | x_t]|^2, the mean over numbers of z and over `draws` of noise

and of every first stage but one whose latents are the image

    reconstruction    |x - decode(encode(x))|^2, the mean over pixels in [-1, 1]

With `others` (images that are not of the training data's kind) each score has its AUROC, the probability that one of theirs is
higher than one of the images given, with the error of DeLong et al. (1988).

What makes it fail: likelihood itself. A flow on clothes finds digits more probable than clothes (Nalisnick et al. 2018), an
AUROC far below 1/2, for what is plain is probable under any local law. Typicality, ratio and complexity each mend that for
some pairs of data and for none in general. L is of pixels: beside densities of small latents it outweighs them, and
`complexity` then says little but how plain an image is: a length in nats is to be compared with a code of the whole image,
P(x). A latent that was trained to forget what is not in the data hides it from the prior, and `reconstruction` shows it,
unless the image is plainer than the data.

Sources:
    Nalisnick et al., Do Deep Generative Models Know What They Don't Know? (2018), arXiv 1810.09136
    Nalisnick et al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality (2019), arXiv 1906.02994
    Ren et al., Likelihood Ratios for Out-of-Distribution Detection (2019), arXiv 1906.02845
    Serra et al., Input Complexity and Out-of-distribution Detection with Likelihood-based Generative Models (2019),
        arXiv 1909.11480
    Graham et al., Denoising Diffusion Models for Out-of-Distribution Detection (2022), arXiv 2211.07740
    DeLong et al., Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves (1988),
        doi 10.2307/2531595
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.dequantised import width_of
from ldm.data.inputs import Inputs
from ldm.eight_bits import eight_bits
from ldm.metric.bits_per_dim import log_p_of_pixels
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.task.base import Answer, Found, Task, lacking
from ldm.tensors import hash_of
from ldm.types import Image

_BATCH = 64
_LEVEL = width_of(256)

Level = Annotated[float, Field(gt=0, le=1)]


class Anomaly(Task):
    """Scores of how strange images are to a model, and how well each tells other images from those given.

    Arguments:
        others: images that are strange, a file or a folder, which the scores are to tell from those given.
        reference: images that are ordinary, as some of training, from which typicality is learnt.
        background: a run whose densities stand for what is common to all images, on the same first stage or on pixels, too.
        likelihood: whether densities are asked for, which of a diffusion takes hundreds of evaluations.
        levels: noise levels of denoising errors.
        draws: of noise at each level.
    """

    asks_prior = False

    def __init__(
        self,
        others: Path | None = None,
        reference: Path | None = None,
        background: Path | None = None,
        likelihood: bool = True,
        levels: tuple[Level, ...] = (0.1, 0.3, 0.5, 0.7),
        draws: PositiveInt = 4,
    ):
        self.others, self.reference, self.background = others, reference, background
        self.likelihood, self.levels, self.draws = likelihood, tuple(levels), draws
        self._entropy: float | None = None
        self._background: LatentModel | None = None

    def check(self, model: LatentModel) -> None:
        for word, value in (("reference", self.reference), ("background", self.background)):
            if value is not None and not (self.likelihood and isinstance(model.prior, Likelihood)):
                said = lacking(f"task.{word}=", model, Likelihood, "densities")
                raise ValueError(
                    said if self.likelihood else f"task.{word}= is of densities, and task.likelihood=false"
                )

    def begin(self, model: LatentModel) -> None:
        if self.background is not None:
            self._background = LatentModel.load(self.background, device=model.device)
            theirs, own = self._background.autoencoder.image_shape, model.autoencoder.image_shape
            if theirs != own or not isinstance(self._background.prior, Likelihood):
                raise ValueError(
                    f"task.background={self.background}: wanted a run with densities of images of {own}; its prior is "
                    f"{type(self._background.prior).__name__} and its images are of {theirs}"
                )
            if _reads(self._background) != _reads(model):
                raise ValueError(
                    f"task.background={self.background} has another first stage, so its densities are of other latents and "
                    "have no ratio to these: train it with autoencoder.checkpoint=RUN, this run, or take models of pixels"
                )
        if self.reference is not None:
            inputs = Inputs(self.reference, model.autoencoder.image_shape, "task.reference")
            self._entropy = self._mean_nll(model, inputs)

    @torch.no_grad()
    def _mean_nll(self, model: LatentModel, inputs: Inputs) -> float:
        """H, over the reference images, without a condition."""
        found = []
        for start in range(0, len(inputs), _BATCH):
            rows = range(start, min(start + _BATCH, len(inputs)))
            index = torch.tensor(list(rows), device=model.device)
            batch = {"index": index, "image": inputs.batch(rows).to(model.device)}
            found.append(nll(model, batch | _nothing(model, len(rows)), Random(0, 1, index)))
        return float(torch.cat(found).mean())

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x, scores = batch["image"], dict[str, Tensor]()
        if self.likelihood and isinstance(model.prior, Likelihood):
            value = nll(model, batch, random)
            scores["nll"] = value
            if self._entropy is not None:
                scores["typicality"] = (value - self._entropy).abs()
            if self._background is not None:
                scores["ratio"] = value - nll(self._background, _as_far_as_known(self._background, batch), random)
            scores["complexity"] = value - png_nats(x).to(value.device)
        if isinstance(model.prior, Diffusion):
            scores |= {f"denoising_{t:g}": self._denoising(model, batch, t, random) for t in self.levels}
        pictures = {"given": x}
        if not isinstance(model.autoencoder.encoder, Pixels):
            made = model.reconstruct(x)
            scores["reconstruction"] = (made - x).square().flatten(1).mean(1).double()
            pictures["reconstruction"] = made
        return Answer(pictures, scores)

    def _denoising(self, model: LatentModel, batch: Mapping[str, Any], t: float, random: Random) -> Tensor:
        """The mean over draws of |z - E[z | x_t]|^2 / numbers, (b,)."""
        z, c, denoiser = model.autoencoder.encode(batch["image"]).mean, model.condition(batch), model.prior.denoiser
        times = torch.full((len(z),), t, device=z.device)
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in denoiser.schedule.alpha_sigma(times))
        total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for draw in range(self.draws):
            eps = random.normal(f"level {t:g} draw {draw}", tuple(z.shape[1:]))
            error = z - denoiser(alpha * z + sigma * eps, times, c)
            total += error.square().flatten(1).mean(1).double() / self.draws
        return total

    def conclude(self, found: Found) -> dict[str, Any]:
        if found.first == len(found.names):
            return {}
        areas = {name: auroc(value[: found.first], value[found.first :]) for name, value in found.numbers.items()}
        return {"auroc": {name: {"value": area, "standard_error": error} for name, (area, error) in areas.items()}}


def nll(model: LatentModel, batch: Mapping[str, Any], random: Random) -> Float[Tensor, " b"]:
    """-log p(z | c) in nats, (b,), float64, of latents drawn from q(z|x); of a model of pixels -log P(x | c) of their levels."""
    c = model.condition(batch)
    if model.prior.reads == "latents" and isinstance(model.autoencoder.encoder, Pixels):
        x = batch["image"]
        spread = x + _LEVEL * (random.uniform("dequantisation", tuple(x.shape[1:])) - 0.5)
        return -log_p_of_pixels(model, spread, c, random) - x[0].numel() * math.log(_LEVEL)
    return -model.prior.log_prob(model.latent(batch, random), c, random).double()


def _reads(model: LatentModel) -> str:
    """What a prior's densities are of: pixels, or the latents of these weights of an encoder."""
    encoder = model.autoencoder.encoder
    return "pixels" if isinstance(encoder, Pixels) else hash_of(encoder.state_dict())


def _nothing(model: LatentModel, count: int) -> dict[str, Any]:
    """What stands in a batch for no condition."""
    return {"caption": [""] * count} if "caption" in model.condition.needs else {}


def _as_far_as_known(model: LatentModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch, with the conditions that a model knows and nothing in the place of those that are not given."""
    kept = {key: value for key, value in batch.items() if key in ("index", "image", *model.condition.needs)}
    return _nothing(model, len(batch["index"])) | kept


def png_nats(x: Image) -> Float[Tensor, " b"]:
    """How many nats images (b, c, h, w) in [-1, 1] take as PNG of 8 bits, (b,), float64; its header counts, the same for all."""
    found = []
    for picture in eight_bits(x).cpu():
        file = io.BytesIO()
        grey = x.shape[1] == 1
        image = PIL.Image.fromarray(picture[0].numpy() if grey else picture.permute(1, 2, 0).numpy())
        image.save(file, "PNG", optimize=True)
        found.append(8 * file.tell() * math.log(2))
    return torch.tensor(found, dtype=torch.float64)


def auroc(given: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> tuple[float, float | None]:
    """P(other > given) + P(other = given) / 2 and its standard error, which two or more of each are needed for.

    The error is DeLong's: of the variances of how many of the other set each number lies above.
    """
    low, high = given.double().sort().values, others.double().sort().values

    def above(x: Tensor, y: Tensor) -> Tensor:
        """Of each x the share of sorted y that is below it, ties by half."""
        return (torch.searchsorted(y, x) + torch.searchsorted(y, x, right=True)) / (2 * len(y))

    of_others, of_given = above(high, low), 1 - above(low, high)
    area = float(of_others.double().mean())
    if min(len(low), len(high)) < 2:
        return area, None
    return area, math.sqrt(of_others.double().var() / len(high) + of_given.double().var() / len(low))
