"""A small diffusion at each position, given what the network says there (MAR; Li et al. 2024, sections 3.2 and 3.3).

    p(z_i | z_1 ... z_(i-1), c) = p(z_i | h_i),     h_i = network(z_1 ... z_(i-1), c)

is the law of a diffusion over the channels of one position, whose denoiser E[z_i | z_t, h_i] is a multi-layer perceptron that is
told h_i beside the noise level. Network and denoiser are trained at once by the diffusion's loss (ibid., equation 1), whose
gradients reach the network through h_i. Of each position several noise levels are drawn for one h_i, which costs little beside
the network (ibid., section 3.2). So a position may have any law: there are no components whose number and shape have to fit it.

To draw z_i takes as many calls of the perceptron as the sampler has steps. Guidance is classifier-free, of the answers by h_i
with the condition and without (ibid., appendix B). Temperature T multiplies the noise that a draw begins from by sqrt T, which
for a Gaussian is the power p^(1/T), and for other laws draws more from their middle where T is below 1; the paper multiplies
noise that is added on the way (section 3.2), which solvers of the ODE do not have.

log p(z_i | h_i) is that of the probability-flow ODE (ldm.diffusion.likelihood), so the prior's likelihood is an estimate where
that is one. It costs hundreds of calls of the perceptron a position, and training does not ask for it.

It fails as a diffusion fails, quietly: the loss is mostly noise that cannot be predicted, and hardly falls while samples
become good. A perceptron that is too narrow, or few steps, blurs each position by itself, and the network never sees that
in training.

Sources:
    Li et al., Autoregressive Image Generation without Vector Quantization (2024), arXiv 2406.11838
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.prior.head.base import Bent, Head
from ldm.random import Random, seed_of
from ldm.types import Context, ContextShape, Latent


class DiffusionHead(Head):
    """A diffusion over the channels of a position.

    Arguments:
        latents: what is modelled; the prior gives it.
        law: waits for (latents, context) and is the diffusion, of latents (c, 1, 1) given one token h.
        width: numbers of h.
        draws: noise levels that are trained of each position at an update.
    """

    reads = ("latents",)
    truncates = False
    objective = "diffusion"

    def __init__(
        self,
        latents: Latents,
        law: Callable[..., Diffusion],
        width: PositiveInt = 256,
        draws: PositiveInt = 4,
    ):
        super().__init__(latents)
        self.inputs, self.outputs, self.draws = latents.shape[0], width, draws
        self.law = law(latents=Latents((self.inputs, 1, 1)), context=ContextShape(tokens=width))
        self.kind = self.law.kind

    def embed(self, z: Latent) -> Float[Tensor, "b i h w"]:
        return z

    def log_prob(
        self, parameters: Float[Tensor, "b o h w"], z: Latent, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        random = random or Random(0, 0, torch.arange(len(z), device=z.device))
        values, h = _positions(z), Context(_positions(parameters)[:, None, :, 0, 0])
        log_p = self.law.log_prob(values, h, _of_each(random, len(values) // len(z)))
        return log_p.view(len(z), *z.shape[2:])

    def loss(
        self, parameters: Float[Tensor, "b o h w"], z: Latent, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        random = random or Random.fresh(len(z), z.device)
        values, h = (_positions(each).repeat_interleave(self.draws, 0) for each in (z, parameters))
        own = _of_each(random, len(values) // len(z))
        eps = own.normal("noise", tuple(values.shape[1:]))
        errors = self.law.errors(values, Context(h[:, None, :, 0, 0]), own.stratified("time"), eps)
        return self.inputs * errors.view(len(z), *z.shape[2:], self.draws).mean(-1)

    def draw(
        self,
        parameters: Float[Tensor, "b o"],
        null: Float[Tensor, "b o"] | None,
        bent: Bent,
        random: Random,
        stream: str,
    ) -> Float[Tensor, "b c"]:
        if bent.temperature != 1 and self.law.sampler.stochastic:
            raise ValueError(
                f"prior.temperature= is of the noise that a draw begins from, and {type(self.law.sampler).__name__} adds "
                "other noise on the way: take temperature=1, or train with diffusion/sampler=unipc"
            )
        own = Random(seed_of(random.seed, stream), random.step, random.rows)
        noise = bent.temperature**0.5 * own.normal("prior", (self.inputs, 1, 1))
        c = Context(parameters[:, None], empty=None if null is None else Context(null[:, None]))
        return self.law.cleaned(noise, ClassifierFree(self.law.denoiser, bent.guidance), c, own)[:, :, 0, 0]


def _positions(z: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c 1 1"]:
    """Each position as an example, (b h w, c, 1, 1)."""
    return rearrange(z, "b c h w -> (b h w) c 1 1")


def _of_each(random: Random, count: int) -> Random:
    """The random numbers of `count` parts of each example, as if each were an example."""
    parts = torch.arange(count, device=random.rows.device)
    return Random(random.seed, random.step, (random.rows[:, None] * count + parts).flatten(), random.total * count)
