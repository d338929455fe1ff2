"""How probable a model of two stages finds held-out images: a bound in bits per number of the image.

For an image x, its context c and an encoder that gives a distribution q(z|x),

    -log p(x | c) <= E_q[-log p(x | z) - log p(z | c) + log q(z | x)],        p(x | z) = N(x; decode(z), v),

where both densities of z are those of whitened latents, so that the whitening's Jacobians cancel (Kingma and Welling 2013,
equation 3). With k draws z_1 .. z_k of q the bound is tighter (Burda et al. 2015, equation 8):

    -log p(x | c) <= E[-log (1/k) sum_j p(x | z_j) p(z_j | c) / q(z_j | x)].

A vector quantiser gives one code with certainty, and the same formula holds with log q = 0. The variance v of a pixel is one
number for all: the mean squared error of these images, which maximises the bound of one draw (Rybkin et al. 2020, section
4.1). That it is fitted to the images that are measured flatters by about 1 / (2 n d) nats a number, nothing for any n.

Images have 8 bits and a density has none, so the level k of a number becomes x = (k + u - 1/2) / 127.5 - 1 with u uniform in
[0, 1): the mean of -log p(x) bounds that of the levels' probabilities (Theis et al. 2016, equation 3). A level is 1 / 127.5
wide in x, which adds log2(127.5) bits. Bits are of one number of the image, a third of a pixel where there are colours.

Sources:
    Kingma and Welling, Auto-Encoding Variational Bayes (2013), arXiv 1312.6114
    Burda et al., Importance Weighted Autoencoders (2015), arXiv 1509.00519
    Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders (2020), arXiv 2006.13202
    Theis et al., A note on the evaluation of generative models (2015), arXiv 1511.01844
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.model import LatentModel
from ldm.prior.base import Likelihood
from ldm.random import Random
from ldm.types import Context, Image

_LEVEL = 1 / 127.5  # how far two levels of 8 bits are apart in images of [-1, 1]


class PixelBound(Metric):
    """`bits_per_dim`: the mean bound over images, with its standard error.

    Arguments:
        draws: k, of the encoder's distribution for each image.
        seed: of these draws, of u, and of what an estimated density draws.
    """

    def __init__(self, draws: PositiveInt = 1, seed: int = 0):
        self.draws, self.seed = draws, seed
        self._errors = [torch.zeros(0, draws, dtype=torch.float64)]  # |x - decode(z)|^2, summed over numbers
        self._ratios = [torch.zeros(0, draws, dtype=torch.float64)]  # log p(z|c) - log q(z|x)
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._kind, self._numbers, self._came = None, 0, "no prior"

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        self._hashes.append(image_hashes(eight_bits(examples.real)))
        model = examples.model
        if model is None or examples.batch is None:
            return
        self._came = f"{type(model.prior).__name__} on {type(model.autoencoder.bottleneck).__name__}"
        if not isinstance(model.prior, Likelihood) or (
            model.prior.reads == "latents" and model.autoencoder.bottleneck.moments == 1
        ):
            return
        self._kind = "estimate" if model.prior.kind == "estimate" else "bound"
        self._numbers = examples.real[0].numel()
        c = model.condition(examples.batch)
        drawn = [self._draw(model, examples.real, c, Random(self.seed, j, examples.index)) for j in range(self.draws)]
        errors, ratios = zip(*drawn, strict=True)
        self._errors.append(torch.stack(errors, 1).double().cpu())
        self._ratios.append(torch.stack(ratios, 1).double().cpu())

    def _draw(
        self, model: LatentModel, real: Image, c: Context, random: Random
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Of one draw of q(z|x): the squared error of its image, and log p(z|c) - log q(z|x), each (b,)."""
        x = dequantised(real, random)
        if model.prior.reads == "codes":
            codes = model.autoencoder.codes(real)
            image, log_q = model.autoencoder.decode_codes(codes), 0.0
            log_p = model.prior.log_prob(codes, c, random)
        else:
            posterior = model.autoencoder.encode(real)
            noise = random.normal("posterior", tuple(posterior.mean.shape[1:]))
            z = posterior.sample(noise)
            image, log_p = model.autoencoder.decode(z), model.prior.log_prob(z, c, random)
            log_q = -(0.5 * (noise.square() + math.log(2 * math.pi)) + posterior.std.log()).flatten(1).sum(1)
        return (x - image.float()).square().flatten(1).sum(1), log_p - log_q

    def measure(self) -> list[Measurement]:
        errors, ratios = gather_rows(torch.cat(self._errors)), gather_rows(torch.cat(self._ratios))
        reference, n = set_hash(gather_rows(torch.cat(self._hashes))), len(errors)
        if n == 0:
            leave_out(
                "bits_per_dim", "a prior that gives densities and an encoder that gives a distribution", self._came
            )
            return []
        variance = errors.mean() / self._numbers
        log_p = -0.5 * (errors / variance + self._numbers * torch.log(2 * math.pi * variance))
        nats = math.log(self.draws) - (log_p + ratios).logsumexp(1)
        bits = nats / (self._numbers * math.log(2)) - math.log2(_LEVEL)
        return [
            Measurement(
                metric="bits_per_dim" if self.draws == 1 else f"bits_per_dim_{self.draws}",
                value=float(bits.mean()),
                standard_error=float(bits.std() / n**0.5) if n > 1 else None,
                n=n,
                reference_hash=reference,
                kind=self._kind,
            )
        ]


def dequantised(real: Image, random: Random) -> Image:
    """Images of 8-bit levels k in [-1, 1] as (k + u - 1/2) / 127.5 - 1, u uniform in [0, 1)."""
    levels = ((real.float().clamp(-1, 1) + 1) / _LEVEL).round()
    return (levels + random.uniform("dequantise", tuple(real.shape[1:])) - 0.5) * _LEVEL - 1
