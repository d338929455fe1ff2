"""A mixture of Gaussians over the channels of a continuous latent at one position (GIVT; Tschannen et al. 2023, section 3.1).

    p(z_i | ...) = sum_k w_k prod_c N(z_ic; m_kc, s_kc^2),     s = floor + softplus(.)

The channels of a position are described jointly, by one mixture of Gaussians with diagonal covariances: they are independent
    given the component, and not without it. So a position is drawn in one step, where channel after channel would take as many
    as there are channels; and latents of a KL autoencoder are whitened, so little of what relates their channels is linear.

A Gaussian that sits on one value has all the density it likes, and where latents hardly vary (as at the corners of pictures of
clothes) deviations go to zero and the likelihood without bound. The floor stops that.

Temperature T draws from the components of p^(1/T): each Gaussian's deviation times sqrt(T), its weight w^(1/T) s^(1 - 1/T), up
to what all share; for components that do not overlap this is the law's own power. Guidance draws candidates from p_c and
chooses one with probability in proportion to (p_c / p_0)^(s - 1) (sampling-importance resampling; Rubin 1988), which is the
guided law as candidates become many; that of GIVT, rejection sampling, has no bound on its steps.

Sources:
    Tschannen et al., GIVT: Generative Infinite-Vocabulary Transformers (2023), arXiv 2312.02116
    Rubin, Using the SIR Algorithm to Simulate Posterior Distributions (1988)
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent, Head, StepwiseHead, chosen
from ldm.prior.stepwise import Grid, mixture_laws
from ldm.random import Random
from ldm.types import Latent

_AT_FIRST = math.log(math.expm1(0.5))  # softplus of it is a deviation of one half


class GaussianMixture(Head, StepwiseHead):
    """A mixture of Gaussians with diagonal covariances over the channels of a position.

    Arguments:
        latents: what is modelled; the prior gives it.
        components: K.
        floor: the least deviation, where latents have deviation 1.
        candidates: of which guidance chooses one, at each position.
    """

    reads = ("latents",)
    truncates = False

    def __init__(
        self,
        latents: Latents,
        components: PositiveInt = 16,
        floor: PositiveFloat = 0.01,
        candidates: PositiveInt = 64,
    ):
        super().__init__(latents)
        self.components, self.floor, self.candidates = components, floor, candidates
        self.inputs = latents.shape[0]
        self.outputs = components * (1 + 2 * self.inputs)

    def embed(self, z: Latent) -> Float[Tensor, "b i h w"]:
        return z

    def log_prob(
        self, parameters: Float[Tensor, "b o h w"], z: Latent, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        law = self._law(rearrange(parameters, "b o h w -> b h w o"))
        return _density(law, rearrange(z.float(), "b c h w -> b h w c"))

    def draw(
        self,
        parameters: Float[Tensor, "b o"],
        null: Float[Tensor, "b o"] | None,
        bent: Bent,
        random: Random,
        stream: str,
    ) -> Float[Tensor, "b c"]:
        law = self._law(parameters)
        if null is None:
            return self._drawn(law, bent.temperature, 1, random, stream)[:, 0]
        values = self._drawn(law, bent.temperature, self.candidates, random, stream)
        ratios = [_density(tuple(part[:, None] for part in each), values) for each in (law, self._law(null))]
        weights = (bent.guidance - 1) / bent.temperature * (ratios[0] - ratios[1])
        best = chosen(weights, random.uniform(f"{stream} candidate"))
        return values[torch.arange(len(values), device=values.device), best]

    def laws(self, parameters: Float[Tensor, " o"], grid: Grid | None) -> Generator[Tensor, int, Tensor]:
        values = yield from mixture_laws(*self._law(parameters), grid)
        return values[None, :, None, None]

    def _law(self, parameters: Float[Tensor, "*b o"]) -> tuple[Tensor, Tensor, Tensor]:
        """log w (..., k), m and s (..., k, c) of parameters (..., outputs)."""
        logits, rest = parameters.split([self.components, self.outputs - self.components], dim=-1)
        means, raw = rest.unflatten(-1, (2, self.components, -1)).unbind(-3)
        return logits.log_softmax(-1), means, self.floor + F.softplus(raw + _AT_FIRST)

    def _drawn(
        self, law: tuple[Tensor, Tensor, Tensor], temperature: float, count: int, random: Random, stream: str
    ) -> Float[Tensor, "b n c"]:
        """`count` draws, (b, count, c), of the law of each row."""
        log_weights, means, deviations = law
        logits = log_weights / temperature + (1 - 1 / temperature) * deviations.log().sum(-1)
        u = random.uniform(f"{stream} component", (count,))
        k = torch.stack([chosen(logits, each) for each in u.unbind(1)], dim=1)
        index = k[:, :, None].expand(-1, -1, means.shape[-1])
        noise = random.normal(stream, (count, means.shape[-1]))
        return means.gather(1, index) + temperature**0.5 * deviations.gather(1, index) * noise


def _density(law: tuple[Tensor, Tensor, Tensor], z: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """log p(z) in nats of values (..., c)."""
    log_weights, means, deviations = law
    away = (z[..., None, :] - means) / deviations
    each = -0.5 * (away.square() + 2 * deviations.log() + math.log(2 * math.pi)).sum(-1)
    return (log_weights + each).logsumexp(-1)
