"""Bits per dimension of pixels: how many bits a prior takes, per number of an image, for held-out images of 8 bits.

Of a prior whose latents are pixels (autoencoder=identity). With the noise u of dequantisation, the width w of a level and the
whitening by m and s of each channel (ldm.autoencoder), for images of d numbers of which h w are in a channel,

    -log2 P(x) / d  <=  -[log p(z | c) - h w sum_c log s_c + d log w] / (d log 2),     z = (x + w (u - 1/2) - m) / s,

in expectation over u (Theis et al. 2015, equation 3). With K draws of u in the place of one, log p(z) is the logarithm of their
mean density: unbiased for P(x), so a bound that is tighter the more there are (Burda et al. 2015, theorem 1). All of this is a
bound even where the density is exact; where the density is an estimate, so is the number.

Published numbers are of other sizes and cuts of the data: compare them only where image size, levels and set are the same.

Sources:
    Theis et al., A Note on the Evaluation of Generative Models (2015), arXiv 1511.01844
    Burda et al., Importance Weighted Autoencoders (2015), arXiv 1509.00519
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.autoencoder.bottleneck import Posterior
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.dequantised import width_of
from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.random import Random
from ldm.types import Context, Image


class BitsPerDim(Metric):
    """`bits_per_dim`: the mean over images, with its error.

    Arguments:
        draws: of the noise of dequantisation for each image, K.
        levels: how many values a pixel has in [-1, 1].
        seed: of the noise, and of what an estimate draws.
    """

    def __init__(self, draws: PositiveInt = 1, levels: PositiveInt = 256, seed: int = 0):
        self.draws, self.levels, self.seed = draws, levels, seed
        self._values = [torch.zeros(0, dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._kind: Literal["bound", "estimate"] = "bound"
        self._came = "no prior"

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model, batch = examples.model, examples.batch
        self._hashes.append(image_hashes(eight_bits(examples.real)))
        if model is None or batch is None:
            return
        pixels = isinstance(model.autoencoder.encoder, Pixels)
        self._came = f"{type(model.prior).__name__} over {'pixels' if pixels else 'latents of an autoencoder'}"
        if pixels and isinstance(model.prior, Likelihood):
            c, random = model.condition(batch), Random(self.seed, 0, examples.index)
            self._values.append(self._bits(model, model.prior, examples.real, c, random).cpu())
            self._kind = "estimate" if model.prior.kind == "estimate" else "bound"

    def _bits(self, model: LatentModel, prior: Likelihood, x: Image, c: Context, random: Random) -> Float[Tensor, " b"]:
        """Of each image, (b,)."""
        width, numbers, sides = width_of(self.levels), x[0].numel(), x.shape[2] * x.shape[3]
        log_p = []
        for k in range(self.draws):
            u = random.uniform(f"dequantisation {k}", tuple(x.shape[1:]))
            spread = x + width * (u - 0.5)
            z = model.autoencoder.whiten(Posterior(spread, torch.zeros_like(spread))).mean
            log_p.append(prior.log_prob(z, c, random).double())
        log_density = torch.stack(log_p).logsumexp(0) - math.log(self.draws)
        log_whitening = sides * model.autoencoder.latent_std.double().log().sum()
        return -(log_density - log_whitening + numbers * math.log(width)) / (numbers * math.log(2))

    def measure(self) -> list[Measurement]:
        values, reference = gather_rows(torch.cat(self._values)), set_hash(gather_rows(torch.cat(self._hashes)))
        if len(values) == 0:
            leave_out("bits_per_dim", "a prior that gives densities of pixels (autoencoder=identity)", self._came)
            return []
        return [mean_of("bits_per_dim", values, reference, self._kind)]
