"""A sample while it forms, by a prior that can show it: what the images are expected to be, step by step.

A sampler goes by E[x | x_t, c], which is blurred at first, for much may still come of the noise, and is the sample itself at the
last step. Decoded it is an image at every step. Decoding costs a pass of the decoder, so it is done only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ldm.model import LatentModel
from ldm.prior.base import Gradual
from ldm.types import Image, Latent


@dataclass(frozen=True)
class Glimpse:
    """What is expected of samples on their way.

    Fields:
        t: how much of the way is left: 1 at noise, 0 at the samples.
        z: what is expected of the latents of each, (b, c, h, w).
        model: that decodes them.
    """

    t: float
    z: Latent
    model: LatentModel

    @torch.no_grad()
    def images(self) -> Image:
        """The same as images (b, c, h, w) in [-1, 1]."""
        return self.model.decode(self.z.detach())


@contextmanager
def watched(model: LatentModel, watch: Callable[[Glimpse], None] | None) -> Iterator[None]:
    """Within the block, tell `watch` of each step of a sample; never of priors that draw at once. What it raises ends the
    sample."""
    prior = model.prior
    if watch is None or not isinstance(prior, Gradual):
        yield
        return
    before = prior.watch
    prior.watch = lambda t, z: watch(Glimpse(t, z, model))
    try:
        yield
    finally:
        prior.watch = before
