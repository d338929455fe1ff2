"""Generative adversarial networks: a generator against a critic that tells its samples from data.

    z = G(n, c),  n ~ N(0, 1);    D(z, c) a number that is high for data

Each side minimises the mean of its loss over the batch, in which example i of data, r_i = D(z_i, c_i), is paired with a sample of
the same context, f_i = D(G(n_i, c_i), c_i):

                       critic                                       generator
    relativistic       softplus(-(r - f))                           softplus(-(f - r))            Jolicoeur-Martineau 2018
    non-saturating     softplus(-r) + softplus(f)                   softplus(-f)                  Goodfellow et al. 2014
    hinge              max(0, 1 - r) + max(0, 1 + f)                -f                            Lim and Ye 2017

and the critic, at every update, (gamma / 2) |grad_z D|^2 at data (R1) and at samples (R2) on top (Mescheder et al. 2018).

What makes it fail. *Collapse*: with losses of one image at a time a generator may send all noise to where the critic is
highest. A relativistic critic has to rank each image above each sample, so wherever data is, samples have to be, too
(Sun et al. 2020). *No convergence*: the gradient flow of the game circles its equilibrium; R1 makes it converge
near it, and where samples are still far from data R2 is needed, without which the critic's gradient explodes there
(Huang et al. 2024, section 2). With both, no normalisation, no other regulariser and no tricks of the architecture are needed.
*A wrong gamma*: too low and the critic is far ahead of the generator, whose samples of a class become alike; too high and it
sees no detail. It depends on the data more than on the network and grows with the dimensions (in StyleGAN's rule, by 4 when the
sides double) and with the noise of small batches, so it is given here for one dimension. On latents of 256 dimensions and
batches of 32, where data of a class have a mean deviation of .61, samples had .26 under 1e-4 and .44 under 2e-3
(experiments/LOG.md); Huang et al. begin with 0.05 for 3072 dimensions and batches of 512, that is 1.6e-5. *Many more numbers
of noise than data have*: of eight Gaussians in the plane, samples made from 64 numbers miss four modes, or where a higher gamma
finds all, lie between them (.72 near one); made from 4 they find all (.93). *Small batches*, below 16 or so, whose critic has
little to compare.

Both sides move at once, from the same samples. The condition learns with the generator alone; the critic projects on an
embedding of its own (ldm.nn.fixup). The critic is computed in float32, whatever the rest is: a gradient's gradient in bfloat16
has no digits left. What is kept is the generator, of whose weights the stage keeps an average, without which samples change
visibly from one update to the next.

Sources:
    Goodfellow et al., Generative Adversarial Networks (2014), arXiv 1406.2661
    Lim and Ye, Geometric GAN (2017), arXiv 1705.02894
    Mescheder et al., Which Training Methods for GANs do actually Converge? (2018), arXiv 1801.04406
    Jolicoeur-Martineau, The relativistic discriminator: a key element missing from standard GAN (2018), arXiv 1807.00734
    Sun et al., Towards a Better Global Loss Landscape of GANs (2020), arXiv 2011.04926
    Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline (2024), arXiv 2501.05441
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.cost import context_on_meta, flops
from ldm.nn.fixup import estimate_spectral_norms
from ldm.prior.base import Latents, Prior, Side, Terms
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent

Values = Float[Tensor, " b"]
_MOST = 64  # numbers of noise where nothing is said


class Objective(Constructed, ABC):
    """The losses of both sides, given what the critic says of data and of samples, paired."""

    @abstractmethod
    def critic(self, real: Values, fake: Values) -> Values:
        """The critic's loss of each pair, (b,)."""

    @abstractmethod
    def generator(self, real: Values, fake: Values) -> Values:
        """The generator's loss of each pair, (b,)."""


class Relativistic(Objective):
    """Data above samples, pair by pair."""

    def critic(self, real: Values, fake: Values) -> Values:
        return F.softplus(fake - real)

    def generator(self, real: Values, fake: Values) -> Values:
        return F.softplus(real - fake)


class NonSaturating(Objective):
    """The log-likelihood of a classifier of data and samples; the generator maximises that of being taken for data."""

    def critic(self, real: Values, fake: Values) -> Values:
        return F.softplus(-real) + F.softplus(fake)

    def generator(self, real: Values, fake: Values) -> Values:
        return F.softplus(-fake)


class Hinge(Objective):
    """Data above 1 and samples below -1; further does not count."""

    def critic(self, real: Values, fake: Values) -> Values:
        return F.relu(1 - real) + F.relu(1 + fake)

    def generator(self, real: Values, fake: Values) -> Values:
        return -fake


def squared_gradient(values: Values, x: Latent) -> Values:
    """|d values / d x|^2 of each example, (b,), with a gradient of its own; of values (b,) of x (b, c, h, w)."""
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


class GAN(Prior):
    """A generator, trained against a critic.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        generator: waits for (noise, shape, context) and gives G(noise, c).
        critic: waits for (shape, context) and gives D(z, c).
        objective: the losses of both sides.
        noise: how many numbers of noise a sample is made of; without, 64, or twice as many as a latent has where that is fewer.
        r1: the weight gamma of the critic's squared gradient at data, for each dimension of a latent; 0 is without.
        r2: the same at samples.
    """

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        generator: Callable[..., nn.Module],
        critic: Callable[..., nn.Module],
        objective: Objective,
        noise: PositiveInt | None = None,
        r1: NonNegativeFloat = 2e-3,
        r2: NonNegativeFloat = 2e-3,
    ):
        super().__init__(latents, context)
        self.noise = min(_MOST, 2 * latents.numbers) if noise is None else noise
        self.objective, self.r1, self.r2 = objective, r1, r2
        self.generator = generator(noise=self.noise, shape=latents.shape, context=context)
        self._critic = (critic(shape=latents.shape, context=context),)

    @property
    def critic(self) -> nn.Module:
        """The other side, which is not kept."""
        return self._critic[0]

    def beside(self) -> nn.Module:
        return self.critic

    def sides(self) -> list[Side]:
        return [Side("generator", (self.generator,), self._fool), Side("critic", (self.critic,), self._judge)]

    def judged(self, z: Latent, c: Context) -> Values:
        """D(z, c), (b,), in float32 and without a gradient for the context."""
        self.critic.eval()  # spectral norms are estimated by `conclude` alone
        with torch.autocast(z.device.type, enabled=False):
            tokens = None if c.tokens is None else c.tokens.detach().float()
            return self.critic(z.float(), Context(tokens, c.mask))

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return self._fool(z, c, random or Random.fresh(len(z), z.device), 0, {})[0]

    def _fool(self, z: Latent, c: Context, random: Random, update: int, shared: dict[str, Any]) -> tuple[Terms, Terms]:
        """The generator's loss."""
        made = self._made(c, random)
        shared["made"] = made.detach()
        with torch.no_grad():
            real = self.judged(z, c)
        return {"generator": self.objective.generator(real, self.judged(made, c)).mean()}, {}

    def _judge(self, z: Latent, c: Context, random: Random, update: int, shared: dict[str, Any]) -> tuple[Terms, Terms]:
        """The critic's loss and its penalties, on the samples of the same update."""
        real, r1 = self._with_penalty(z, c, self.r1)
        fake, r2 = self._with_penalty(shared["made"], c, self.r2)
        terms = {"critic": self.objective.critic(real, fake).mean()}
        terms |= {name: term for name, term in (("r1", r1), ("r2", r2)) if term is not None}
        return terms, {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def _with_penalty(self, z: Latent, c: Context, weight: float) -> tuple[Values, Float[Tensor, ""] | None]:
        """D(z, c), and (gamma / 2) |grad D|^2, averaged, where there is a weight."""
        z = z.detach().requires_grad_(weight > 0)
        values = self.judged(z, c)
        if weight == 0:
            return values, None
        return values, 0.5 * weight * self.latents.numbers * squared_gradient(values, z).mean()

    def _made(self, c: Context, random: Random) -> Latent:
        return self.generator(random.normal("noise", (self.noise,)), c).float()

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        return self._made(c, random or Random.fresh(shape[0]))

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Values]:
        """How far the critic puts held-out data above samples. Where it does so much less than with training data
        (`real` - `fake`), it has memorised those."""
        return {"margin": self.judged(z, c) - self.judged(self._made(c, random), c)}

    def conclude(self) -> Terms:
        """Follow the critic's spectral norms, once an update: in each forward pass, as torch has it, they would change with the
        number of micro-batches."""
        estimate_spectral_norms(self.critic)
        return {}

    def networks(self) -> list[nn.Module]:
        return [self.generator]

    def flops(self) -> int:
        noise = torch.empty(1, self.noise, device="meta")
        return flops(self.generator, noise, context_on_meta(self.context, self.latents.shape))[0]
