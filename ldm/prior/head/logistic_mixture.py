"""The discretised mixture of logistics of PixelCNN++, over the 256 values of a pixel's channels (Salimans et al. 2017, section
2.1).

P_k is the discretised logistic law of mean m_k and scale s_k (ldm.nn.logistic). The channels of a pixel follow each other and
share the component (section 2.2): the mean of a channel is moved linearly by the values of those before it,

    p(x_1 ... x_c) = sum_k w_k prod_j P_kj(x_j),     m_kj = mean_kj + sum_(i<j) a_kij x_i.

So values near each other have probabilities near each other from the beginning, with a few numbers a pixel in the place of
256. It sums to one over all values by construction. To draw, all 256 probabilities of a channel given those before it are
computed, so top-k, top-p, temperature and guidance mean what they mean of codes. Scales have the floor of the paper's code.

Sources:
    Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications
        (2017), arXiv 1701.05517
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.nn.logistic import log_mass
from ldm.prior.base import Latents
from ldm.prior.head.base import Bent, Head, StepwiseHead, bent_logits, chosen
from ldm.prior.head.categorical import LEVELS, levels_of, pixels_of
from ldm.prior.stepwise import Grid
from ldm.random import Random
from ldm.types import Latent

_LEAST = -7.0  # of log s, as in the paper's code
_AT_FIRST = -2.0  # log s that is added, so that a law begins as wide as the range of values


class LogisticMixture(Head, StepwiseHead):
    """A mixture of logistic laws over the 8-bit values of a pixel's channels.

    Arguments:
        latents: what is modelled; the prior gives it.
        components: K.
    """

    reads = ("pixels",)

    def __init__(self, latents: Latents, components: PositiveInt = 10):
        super().__init__(latents)
        self.components = components
        self.inputs = latents.shape[0]
        self.pairs = self.inputs * (self.inputs - 1) // 2
        self.outputs = components * (1 + 2 * self.inputs + self.pairs)

    def embed(self, z: Latent) -> Float[Tensor, "b i h w"]:
        return z

    def log_prob(
        self, parameters: Float[Tensor, "b o h w"], z: Latent, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        x = rearrange(pixels_of(levels_of(z)), "b c h w -> b h w c")
        log_weights, *law = self._law(rearrange(parameters, "b o h w -> b h w o"))
        total = log_weights
        for j in range(self.inputs):
            total = total + self._channel(law, j, x[..., :j], x[..., j : j + 1])[..., 0]
        return total.logsumexp(-1)

    def draw(
        self,
        parameters: Float[Tensor, "b o"],
        null: Float[Tensor, "b o"] | None,
        bent: Bent,
        random: Random,
        stream: str,
    ) -> Float[Tensor, "b c"]:
        every = pixels_of(torch.arange(LEVELS, device=parameters.device)).expand(len(parameters), -1)
        laws = [self._law(each) for each in (parameters, null) if each is not None]
        weights = [log_weights for log_weights, *_ in laws]  # of components, given the channels so far
        u, x = random.uniform(stream, (self.inputs,)), parameters.new_zeros(len(parameters), 0)
        for j in range(self.inputs):
            each = [self._channel(law, j, x, every) for _, *law in laws]  # (b, k, 256)
            logits = [(w[..., None] + p).logsumexp(1) for w, p in zip(weights, each, strict=True)]
            level = chosen(bent_logits(logits[0], logits[1] if null is not None else None, bent), u[:, j])
            index = level[:, None, None].expand(-1, self.components, 1)
            weights = [w + p.gather(2, index)[..., 0] for w, p in zip(weights, each, strict=True)]
            x = torch.cat([x, pixels_of(level)[:, None]], dim=1)
        return x

    def laws(self, parameters: Float[Tensor, " o"], grid: Grid | None) -> Generator[Tensor, int, Tensor]:
        every = pixels_of(torch.arange(LEVELS, device=parameters.device)).to(parameters)
        weights, *law = self._law(parameters)
        x = every[:0]
        for j in range(self.inputs):
            each = self._channel(law, j, x, every)  # (k, 256)
            place = yield (weights[:, None] + each).logsumexp(0).exp()
            weights = (weights + each[:, place]).log_softmax(0)
            x = torch.cat([x, every[place, None]])
        return x[None, :, None, None]

    def _law(self, parameters: Float[Tensor, "*b o"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log w (..., k), means and log-scales (..., k, c), and a (..., k, pairs) of parameters (..., outputs)."""
        k, c = self.components, self.inputs
        logits, means, log_scales, a = parameters.split([k, k * c, k * c, k * self.pairs], dim=-1)
        means, log_scales = (each.unflatten(-1, (k, c)) for each in (means, log_scales))
        log_scales = (log_scales + _AT_FIRST).clamp(min=_LEAST)
        return logits.log_softmax(-1), means, log_scales, a.tanh().unflatten(-1, (k, self.pairs))

    def _channel(
        self, law: list[Tensor], j: int, before: Float[Tensor, "*b j"], x: Float[Tensor, "*b n"]
    ) -> Float[Tensor, "*b k n"]:
        """log P_k of each value x (..., n) of channel j, (..., k, n), given the channels before it (..., j)."""
        means, log_scales, a = law
        first = j * (j - 1) // 2
        mean = means[..., j] + (a[..., first : first + j] * before[..., None, :]).sum(-1)
        return log_mass(x[..., None, :], mean[..., None], log_scales[..., j, None])
