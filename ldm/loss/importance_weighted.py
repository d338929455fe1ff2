"""The importance-weighted bound of an autoencoder, a closer one than the evidence bound (Burda et al. 2015, equation 8).

Of k draws z_1 ... z_k ~ q(z|x) of each image,

    log 1/k sum_i w_i  <=  log p(x)  in expectation,      w_i = p(x | z_i) p(z_i) / q(z_i | x),

with p(z) the standard normal law. For k = 1 it is a draw of the evidence bound; more draws tighten it, up to log p(x). Its
gradient is sum_i v_i grad log w_i, with v the weights divided by their sum (equation 13), which is what differentiating it gives.

The more draws, the more of the gradient for the encoder is noise, and with very many the encoder learns nothing (Rainforth et
al. 2018). The doubly reparameterised gradient has the same mean and not this fault (Tucker et al. 2018, equation 8): log q knows
of the encoder through z alone, and what comes back to z_i is multiplied by v_i once more. The decoder's gradient is as before.

Sources:
    Burda et al., Importance Weighted Autoencoders (2015), arXiv 1509.00519
    Rainforth et al., Tighter Variational Bounds are Not Necessarily Better (2018), arXiv 1802.04537
    Tucker et al., Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (2018), arXiv 1810.04152
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.constructed import Constructed
from ldm.types import Latent


@runtime_checkable
class Law(Protocol):
    """The posterior of latents, normal and independent in every number, as `ldm.autoencoder.bottleneck` makes it."""

    @property
    def mean(self) -> Latent:
        """The means, (n, c, h, w)."""
        ...

    @property
    def std(self) -> Latent:
        """The deviations, (n, c, h, w); 0 where the encoder has none."""
        ...


class ImportanceWeighted(Constructed):
    """The bound of several draws.

    Arguments:
        draws: of each image, k.
        doubly: whether the encoder's gradient is the doubly reparameterised one.
    """

    def __init__(self, draws: PositiveInt = 8, doubly: bool = False):
        self.draws, self.doubly = draws, doubly

    def __call__(self, log_p: Float[Tensor, " n"], z: Float[Tensor, "n c h w"], posterior: Law) -> Float[Tensor, " b"]:
        """The bound in nats, (b,), of n = b k draws, those of an image one after the other.

        Arguments:
            log_p: log p(x | z) of each draw in nats, summed over the image.
            z: the draws, with gradients for the encoder.
            posterior: q(z|x), of each draw.
        Raises:
            ValueError: the encoder gives no distribution.
        """
        mean, std = posterior.mean, posterior.std
        if not bool((std > 0).all()):
            raise ValueError(
                "the importance-weighted bound needs a distribution of latents, and this bottleneck gives none: take "
                "autoencoder=vae or kl_f4_small, or loss=kl"
            )
        if self.doubly:
            mean, std = mean.detach(), std.detach()
        log_ratio = (
            0.5 * (((z - mean) / std).square() - z.square()) + std.log()
        )  # log p(z) - log q(z), number by number
        log_w = (log_p + log_ratio.flatten(1).sum(1)).view(-1, self.draws)
        if self.doubly and z.requires_grad:
            v = log_w.detach().softmax(1).flatten()
            z.register_hook(lambda gradient: gradient * v.view(-1, 1, 1, 1))
        return log_w.logsumexp(1) - math.log(self.draws)
