"""What the latents of a first stage hold: their moments channel by channel, how many bits they take, which codes are used.

Of every channel of raw latents over held-out images and places, with mean mu and deviation std of q(z|x): the mean E[mu] and
the deviation sqrt(E[mu^2 + std^2] - E[mu]^2) of a draw. A channel is dead where its posterior does not depend on the image,

    Var(mu) < Var(z) / 100,

which is the active units of Burda et al. (2015, section 5.4: Var(mu) > 0.01, of latents of variance 1), said of latents of any
scale. A channel that never varies is dead, too.

Bits are of all numbers of an image's latent:

    posterior_bits             KL(q(z|x) || N(0, 1)) / log 2, what a KL loss weighs
    posterior_bits_whitened    the same against N(m, s^2) of each channel, its moments in training (Autoencoder.latent_mean, _std)
    code_bits                  of h w codes of a book of K: h w log2 K, what sending them plainly takes
    code_entropy_bits          h w times the entropy of how often the codes are used, what a coder that knows this takes

The first is a rate, by bits-back coding (Kingma and Welling 2013, equation 3), and hardly one where the KL weight is tiny and
raw latents have another scale than 1; then the second says more. Neither knows that numbers of one latent depend on each other:
that is what a prior is for (`code_bits_per_image`, `latent_nats_per_dim`). A posterior without a deviation has no such bits.

Usage is the share of codes that any held-out image takes, perplexity the exponential of the entropy. Both fall short where
images have few codes in all against K: the entropy of N codes is too small by about (K - 1) / 2N nats (Miller 1955).

Sources:
    Kingma and Welling, Auto-Encoding Variational Bayes (2013), arXiv 1312.6114
    Burda et al., Importance Weighted Autoencoders (2015), arXiv 1509.00519
    Miller, Note on the Bias of Information Estimates (1955), in: Information Theory in Psychology
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldm.autoencoder.bottleneck import Posterior
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out

DEAD = 0.01  # of a channel's variance, below which what depends on the image is nothing
SHOWN = 32  # channels that have numbers of their own


class LatentStatistics(Metric):
    """`dead_channels`, a share; `latent_mean_N` and `latent_deviation_N` of up to 32 raw channels; and the bits, and numbers of
    codes, that there are."""

    names = ("dead_channels", "latent_*", "posterior_bits*", "code_*")

    def __init__(self) -> None:
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._moments = [torch.zeros(0, dtype=torch.float64)]  # of each image, 3 c numbers: means of mu, mu^2 and std^2
        self._bits = [torch.zeros(0, 2, dtype=torch.float64)]  # of each image
        self._codes = [torch.zeros(0, dtype=torch.int64)]  # of a batch, K numbers: how often each code was taken
        self._count, self._places = 0, 0  # of codes: in the book, and of an image

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model = examples.model
        if model is None or examples.batch is None:
            return
        autoencoder, x = model.autoencoder, examples.real
        raw = autoencoder.posterior(x)
        self._hashes.append(image_hashes(eight_bits(x)))
        self._moments.append(_moments(raw).flatten().cpu())
        if bool((raw.std > 0).all()):
            both = torch.stack([raw.kl(), autoencoder.whiten(raw).kl()], 1)
            self._bits.append((both / math.log(2)).double().cpu())
        if isinstance(autoencoder.bottleneck, VectorQuantiser):
            codes = autoencoder.codes(x)
            self._count, self._places = autoencoder.code_count, codes[0].numel()
            self._codes.append(torch.bincount(codes.flatten(), minlength=self._count).cpu())

    def measure(self) -> list[Measurement]:
        # A rank without images does not know how many channels or codes there are, so rows come as one line of numbers.
        hashes, moments, bits, codes = (
            gather_rows(torch.cat(each)) for each in (self._hashes, self._moments, self._bits, self._codes)
        )
        count, places = gather_rows(torch.tensor([[self._count, self._places]])).amax(0).tolist()
        if len(hashes) == 0:
            leave_out("every number of latents", "at least 1 held-out image", "0")
            return []
        n, reference = len(hashes), set_hash(hashes)
        named = _of_channels(moments.view(n, 3, -1).mean(0))
        if count:
            named |= _of_codes(codes.view(-1, count).sum(0), places)
        found = [
            Measurement(metric=name, value=value, standard_error=None, n=n, reference_hash=reference)
            for name, value in named.items()
        ]
        if len(bits):
            names = ("posterior_bits", "posterior_bits_whitened")
            found += [mean_of(name, bits[:, i], reference, None) for i, name in enumerate(names)]
        return found


def _moments(raw: Posterior) -> Float[Tensor, "b 3 c"]:
    """The means over places of mu, mu^2 and std^2."""
    mean, std = raw.mean.double(), raw.std.double()
    return torch.stack([mean, mean.square(), std.square()], 1).mean((3, 4))


def _of_channels(moments: Float[Tensor, "3 c"]) -> dict[str, float]:
    mean, square, within = moments
    between = (square - mean.square()).clamp(min=0)
    variance = between + within
    found = {"dead_channels": (between <= DEAD * variance).double().mean().item()}
    for channel, (m, v) in enumerate(zip(mean.tolist(), variance.tolist(), strict=True)):
        if channel < SHOWN:
            found |= {f"latent_mean_{channel}": m, f"latent_deviation_{channel}": v**0.5}
    return found


def _of_codes(taken: Int[Tensor, " k"], places: int) -> dict[str, float]:
    """Of how often each code was taken, and how many codes an image has."""
    entropy = torch.special.entr(taken.double() / taken.sum()).sum().item()
    return {
        "code_usage": (taken > 0).double().mean().item(),
        "code_perplexity": math.exp(entropy),
        "code_bits": places * math.log2(len(taken)),
        "code_entropy_bits": places * entropy / math.log(2),
    }
