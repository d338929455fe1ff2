"""Bits per dimension: how many bits a model takes, per number of an image, for held-out images of 8 bits.

An image x of d numbers has levels, and a density has none. So x is drawn from the width w of its level, x' = x + w (u - 1/2)
with u uniform in [0, 1), and (Theis et al. 2015, equation 3)

    -log2 P(x) / d  <=  -[log p(x') + d log w] / (d log 2)        in expectation over u.

What log p(x') is depends on the first stage.

    pixels (autoencoder=identity)   log p(z | c) - h w sum_c log s_c,  z the image x' whitened by m and s of each channel
    logits (identity_logit)         the same and log|det| of the logit (ldm.autoencoder.logit)
    a distribution of latents       log p(x' | z) + log p(z | c) - log q(z | x),  z ~ q, a lower bound (Kingma and Welling 2013,
                                    equation 3); both laws of z are of whitened latents, so that the whitening cancels
    codes of a quantiser            log p(x' | k) + log p(k | c),  k the code that x has for certain, a lower bound, too

A prior that says P(x | c) of the levels themselves, as an autoregressive one of pixels, needs none of this: its bits are exact.

The decoder's law p(x' | z) is a Gaussian or, of levels, a discretised logistic law about decode(z), of one scale for all images
(ldm.metric.decoder_law). An encoder without a distribution has no such bound.

With K draws of u and z in the place of one, the bracket is the logarithm of the mean of K ratios, a bound that is tighter the
more there are (Burda et al. 2015, theorem 1), under a name of its own. All of this is a bound even where the prior's density
is exact; where that is an estimate, so is the number. Bits are of one number of an image, a third of a pixel where there are
colours. Published numbers are of other sizes and cuts of the data: compare them only where image size, levels and set are
the same.

Sources:
    Theis et al., A Note on the Evaluation of Generative Models (2015), arXiv 1511.01844
    Kingma and Welling, Auto-Encoding Variational Bayes (2013), arXiv 1312.6114
    Burda et al., Importance Weighted Autoencoders (2015), arXiv 1509.00519
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.autoencoder.bottleneck import Posterior
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.dequantised import width_of
from ldm.eight_bits import eight_bits
from ldm.metric.decoder_law import DecoderLaw, Gaussian
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.random import Random
from ldm.types import Context, Image

Values = Float[Tensor, " b"]
Kept = Float[Tensor, "b s"]


def log_p_of_pixels(model: LatentModel, x: Image, c: Context, random: Random) -> Values:
    """log p(x | c) of images (b, c, h, w) of a continuous law, in nats, (b,), float64, of a model whose latents are the image."""
    raw, log_det = model.autoencoder.bottleneck.raw(x)
    z = model.autoencoder.whiten(Posterior(raw, torch.zeros_like(raw))).mean
    whitening = x.shape[2] * x.shape[3] * model.autoencoder.latent_std.double().log().sum()
    return model.prior.log_prob(z, c, random).double() - whitening + log_det


class BitsPerDim(Metric):
    """`bits_per_dim`: the mean over images, with its error; of K draws above one, `bits_per_dim_K`.

    Arguments:
        draws: of each image, K.
        levels: how many values a pixel has in [-1, 1].
        decoder: the law of an image given what is decoded, of two stages; by default Gaussian.
        seed: of the draws, and of what an estimate draws.
    """

    names = ("bits_per_dim*",)

    def __init__(
        self, draws: PositiveInt = 1, levels: PositiveInt = 256, decoder: DecoderLaw | None = None, seed: int = 0
    ):
        self.draws, self.width, self.decoder, self.seed = draws, width_of(levels), decoder or Gaussian(), seed
        if self.decoder.levels not in (None, levels):
            raise ValueError(
                f"{type(decoder).__name__} is a law of {decoder.levels} levels, and here are levels={levels}"
            )
        self._ratios = [torch.zeros(0, draws, dtype=torch.float64)]  # log p(x'), but for what the decoder says
        self._kept = [torch.zeros(0, draws, self.decoder.columns, dtype=torch.float64)]  # what that is found by
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._kind, self._numbers, self._decoded, self._came = None, 0, False, "no prior"

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model, batch = examples.model, examples.batch
        if examples.real is None:
            return
        self._hashes.append(image_hashes(eight_bits(examples.real)))
        if model is None or batch is None:
            return
        pixels = isinstance(model.autoencoder.encoder, Pixels)
        given = "pixels" if pixels else f"what {type(model.autoencoder.bottleneck).__name__} gives"
        self._came = f"{type(model.prior).__name__} over {given}"
        certain = model.prior.reads == "latents" and model.autoencoder.bottleneck.moments == 1
        if not isinstance(model.prior, Likelihood) or (certain and not pixels):
            return
        self._numbers, self._decoded = examples.real[0].numel(), not pixels
        draws = {"pixels": self._of_levels, "codes": self._of_codes}
        draw = draws.get(model.prior.reads, self._of_pixels if pixels else self._of_latents)
        exact = model.prior.reads == "pixels" and model.prior.kind == "exact"
        self._kind = "exact" if exact else "estimate" if model.prior.kind == "estimate" else "bound"
        c, ratios, kept = model.condition(batch), [], []
        for k in range(self.draws):
            random = Random(self.seed, k, examples.index)
            u = random.uniform("dequantisation", tuple(examples.real.shape[1:]))
            ratio, decoded = draw(model, examples.real, examples.real + self.width * (u - 0.5), c, random)
            ratios.append(ratio.double().cpu())
            kept.append(decoded.double().cpu())
        self._ratios.append(torch.stack(ratios, 1))
        self._kept.append(torch.stack(kept, 1))

    def _of_levels(
        self, model: LatentModel, x: Image, spread: Image, c: Context, random: Random
    ) -> tuple[Values, Kept]:
        """log P(x) of each image, (b,), in the unit of a density: a level is w wide. Nothing is decoded."""
        log_p = model.prior.log_prob(x, c, random).double()
        return log_p - self._numbers * math.log(self.width), log_p.new_zeros(len(x), self.decoder.columns)

    def _of_pixels(
        self, model: LatentModel, x: Image, spread: Image, c: Context, random: Random
    ) -> tuple[Values, Kept]:
        """log p(x') of each image x' (`spread`), (b,). Nothing is decoded."""
        return log_p_of_pixels(model, spread, c, random), x.new_zeros(len(x), self.decoder.columns)

    def _of_latents(
        self, model: LatentModel, x: Image, spread: Image, c: Context, random: Random
    ) -> tuple[Values, Kept]:
        """log p(z | c) - log q(z | x) of a draw z, (b,), and what the decoder's law asks of its image."""
        posterior = model.autoencoder.encode(x)
        noise = random.normal("posterior", tuple(posterior.mean.shape[1:]))
        z = posterior.sample(noise)
        log_q = -(0.5 * (noise.square() + math.log(2 * math.pi)) + posterior.std.log()).flatten(1).sum(1)
        return model.prior.log_prob(z, c, random) - log_q, self.decoder.kept(x, spread, model.autoencoder.decode(z))

    def _of_codes(self, model: LatentModel, x: Image, spread: Image, c: Context, random: Random) -> tuple[Values, Kept]:
        """log p(k | c) of the codes, (b,), and what the decoder's law asks of their image."""
        codes = model.autoencoder.codes(x)
        y = model.autoencoder.decode_codes(codes)
        return model.prior.log_prob(codes, c, random), self.decoder.kept(x, spread, y)

    def measure(self) -> list[Measurement]:
        log_p, kept = gather_rows(torch.cat(self._ratios)), gather_rows(torch.cat(self._kept))
        reference = set_hash(gather_rows(torch.cat(self._hashes)))
        name = "bits_per_dim" if self.draws == 1 else f"bits_per_dim_{self.draws}"
        if len(log_p) == 0:
            leave_out(
                name, "a prior that gives densities of pixels, of codes, or of a distribution's latents", self._came
            )
            return []
        if self._decoded:
            log_p = log_p + self.decoder.log_p(kept, self._numbers, self.width)
        nats = math.log(self.draws) - log_p.logsumexp(1)
        bits = nats / (self._numbers * math.log(2)) - math.log2(self.width)
        return [mean_of(name, bits, reference, self._kind)]
