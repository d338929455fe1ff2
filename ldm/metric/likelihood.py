"""How probable a prior finds held-out latents, where it is a `Likelihood`: -log p(z | c) in nats per number of the latent.

z is drawn from q(z|x), whitened. Nats of latents say how well a prior fits *these* latents: priors of one first stage may
be compared, of two first stages never, and bits per dimension of pixels these are not.

Of a quantiser's codes it is -log P(k | c) in nats per code, and said in bits per image, too: what an arithmetic coder that has
this prior needs to send all codes of an image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.prior.base import Likelihood
from ldm.random import Random


class LatentLikelihood(Metric):
    """`latent_nats_per_dim`: the mean over examples, with its error; of codes also `code_bits_per_image`.

    Arguments:
        seed: of the latents' draws and of what an estimate draws.
    """

    names = ("latent_nats_per_dim", "code_bits_per_image")

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._values = [torch.zeros(0, dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._kind, self._family, self._codes = None, "no prior", None

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model, batch = examples.model, examples.batch
        if examples.real is None:
            return
        self._hashes.append(image_hashes(eight_bits(examples.real)))
        if model is None or batch is None:
            return
        self._family = f"a prior of the family {type(model.prior).__name__}"
        if isinstance(model.prior, Likelihood):
            random = Random(self.seed, 0, examples.index)
            log_prob = model.prior.log_prob(model.latent(batch, random), model.condition(batch), random)
            self._values.append((-log_prob.double() / model.prior.latents.numbers).cpu())
            self._kind = model.prior.kind
            self._codes = model.prior.latents.numbers if model.prior.reads == "codes" else None

    def measure(self) -> list[Measurement]:
        values, reference = gather_rows(torch.cat(self._values)), set_hash(gather_rows(torch.cat(self._hashes)))
        if len(values) == 0:
            leave_out("latent_nats_per_dim", "a prior that gives densities", self._family)
            return []
        found = [mean_of("latent_nats_per_dim", values, reference, self._kind)]
        if self._codes is not None:
            bits = values * self._codes / math.log(2)
            found.append(mean_of("code_bits_per_image", bits, reference, self._kind))
        return found


def mean_of(
    metric: str,
    values: Float[Tensor, " n"],
    reference: str,
    kind: Literal["exact", "bound", "estimate"] | None,
) -> Measurement:
    """The mean of values of n images with its standard error; `reference` is the hash of their set."""
    n = len(values)
    error = float(values.std() / n**0.5) if n > 1 else None
    return Measurement(
        metric=metric, value=float(values.mean()), standard_error=error, n=n, reference_hash=reference, kind=kind
    )
