"""Energy-based models: a network that says how unlikely a latent is, trained against its own samples.

    p(z | c) = exp(-E(z, c)) / Z(c),    E(z, c) = |z|^2 / 2 + s f(z, c),

f a network and s its `scale`. |z|^2 / 2 is the energy of the standard normal, by which whitened latents are measured: with
it p is a density whatever a network of bounded slope says (Xie et al. 2016), and where f = 0 it is `prior=normal`. Z(c) is not
known: `energy` is minus an unnormalised log-density, good for comparing two latents under one context and for no likelihood.

The gradient of -log p(z | c) is s times that of f(z, c) - E[f(x, c)], x ~ p(. | c), so f is trained by contrastive
divergence (Hinton 2002):

    loss = mean f(z_i, c_i) - mean f(x_i, c_i) + squares (mean f(z_i, c_i)^2 + mean f(x_i, c_i)^2),

the x_i from a few steps of Langevin dynamics, through which no gradient goes back (the term that this leaves out is what
Du et al. 2020 put back),

    x <- x - (h^2 / 2) grad E(x, c) + h n,    n ~ N(0, 1).

In many dimensions steps have to be small, and a chain takes hundreds of them to come anywhere. So chains are carried on from
update to update (Tieleman 2008), in a buffer of past samples from which each starts but for a share `restart` that starts at
noise (Du and Mordatch 2019). A chain lives for `langevin.steps / restart` steps on the average, so samples that are drawn
from noise by as many steps are what training has seen. With a context a chain goes on under one like its own: of 64 places of
the buffer, drawn at random, at the one whose context, as it was when it was put there, is nearest.

What makes it fail. *Chains that do not follow*: where f changes faster than samples move, these stay where the energy is
high by now, and f rises there and falls at data without end. The loss stays finite; what tells is the gap of f between
samples and data. An update with a gap beyond `limit` is refused like one whose gradient is not finite, and a run of them ends
the training (`patience` of the stage's recipe). Against it: a low learning rate, more steps, `squares`, noise on the data,
smooth activations, no normalisation (Grathwohl et al. 2019, and the threads of its code). *Chains that do not mix*: a buffer
holds what was reached and not what the density says, so shares of modes are those of their basins. *Temperature*: published
models take steps of 1 and noise of 0.01, that is s = 20 000, under which what is drawn is almost a local minimum of f.

Sources:
    Hinton, Training Products of Experts by Minimizing Contrastive Divergence (2002), doi 10.1162/089976602760128018
    Tieleman, Training Restricted Boltzmann Machines Using Approximations to the Likelihood Gradient (2008),
        doi 10.1145/1390156.1390290
    Xie et al., A Theory of Generative ConvNet (2016), arXiv 1602.03264
    Du and Mordatch, Implicit Generation and Generalization in Energy-Based Models (2019), arXiv 1903.08689
    Grathwohl et al., Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One (2019), arXiv 1912.03263
    Du et al., Improved Contrastive Divergence Training of Energy Based Models (2020), arXiv 2012.01316
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.cost import context_on_meta, flops
from ldm.nn.attention import masked_mean
from ldm.prior.base import Latents, Prior, Side, Terms
from ldm.random import Random
from ldm.ranks import of_all_ranks
from ldm.types import Context, ContextShape, Latent, Probability

_CANDIDATES = 64  # places of the buffer among which a chain looks for a context like its own

Values = Float[Tensor, " b"]
Energy = Callable[[Latent], Values]


class Langevin(Constructed):
    """Unadjusted Langevin dynamics: x <- x - (h^2 / 2) grad E(x) + h n.

    For E = a x^2 / 2 the variance of x is 1 / (a (1 - a h^2 / 4)) in the end: too large, and without bound where a h^2 is 4.

    Arguments:
        steps: of a chain in one update.
        noise: h, the deviation of the noise in a step.
        clip: the largest number, in absolute value, of (h^2 / 2) grad E, by which a step can move one number of a latent.
    """

    def __init__(self, steps: PositiveInt = 20, noise: PositiveFloat = 0.03, clip: PositiveFloat = 0.3):
        self.steps, self.noise, self.clip = steps, noise, clip

    def __call__(self, energy: Energy, x: Latent, random: Random, steps: int | None = None) -> Latent:
        """x (b, c, h, w) after `steps` steps, or its own number of them, of examples that do not know of each other."""
        for k in range(steps or self.steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(energy(x).sum(), x)
            drift = (0.5 * self.noise**2 * gradient).clamp(-self.clip, self.clip)
            x = x.detach() - drift + self.noise * random.normal(f"langevin {k}", tuple(x.shape[1:]))
        return x


class Replay(nn.Module):
    """Past samples, from which chains go on; the same on all ranks.

    Arguments:
        places: how many samples are kept.
        shape: (c, h, w) of one.
        context: width of a context's tokens, of whose mean each sample keeps what it was; None without.
    """

    def __init__(self, places: int, shape: tuple[int, int, int], context: int | None):
        super().__init__()
        self.register_buffer("samples", torch.zeros(places, *shape))
        self.register_buffer("contexts", torch.zeros(places, context or 0))
        self.register_buffer("age", torch.zeros(places, dtype=torch.int64))  # in steps; 0 is an empty place

    def places(self, contexts: Float[Tensor, "b d"], random: Random) -> Int[Tensor, " b"]:
        """For each context the place, among some drawn at random, whose context is nearest."""
        among = (random.uniform("places", (_CANDIDATES,)) * len(self.age)).long().clamp(max=len(self.age) - 1)
        distance = (self.contexts[among] - contexts[:, None]).square().sum(2)
        return among.gather(1, distance.argmin(1, keepdim=True))[:, 0]

    def put(
        self,
        places: Int[Tensor, " b"],
        samples: Latent,
        contexts: Float[Tensor, "b d"],
        age: Int[Tensor, " b"],
    ) -> None:
        """Put samples at places; of several for one place the first, and none that is not finite."""
        order = torch.arange(len(places), device=places.device)
        order = torch.where(samples.flatten(1).isfinite().all(1), order, len(places))
        first = torch.full_like(self.age, len(places)).scatter_reduce(0, places, order, "amin")
        kept = (first[places] == order).nonzero()[:, 0]
        for own, new in ((self.samples, samples), (self.contexts, contexts), (self.age, age)):
            own[places[kept]] = new[kept].to(own.dtype)


class EBM(Prior):
    """An energy-based model, trained by contrastive divergence with chains that go on.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        network: waits for (shape, context) and gives f(z, c), (b,).
        langevin: the dynamics by which samples are drawn, in training and afterwards.
        scale: s, how many nats f = 1 is.
        places: of the buffer of past samples, which is kept beside the model, 4 c h w bytes each.
        restart: the share of chains that start at noise.
        data_noise: deviation of noise that is added to data.
        squares: the weight of squared f, which keeps it near zero.
        limit: the largest difference of mean f between samples and data with which an update is made.
        steps: of the dynamics from noise to a sample; langevin.steps / restart is the mean age of chains in training.
    """

    DRAWING: ClassVar = ("steps",)

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        network: Callable[..., nn.Module],
        langevin: Langevin,
        scale: PositiveFloat = 3000.0,
        places: PositiveInt = 4096,
        restart: Probability = 0.05,
        data_noise: NonNegativeFloat = 0.03,
        squares: NonNegativeFloat = 0.1,
        limit: PositiveFloat = 100.0,
        steps: PositiveInt = 400,
    ):
        super().__init__(latents, context)
        self.network = network(shape=latents.shape, context=context)
        self.langevin, self.scale, self.restart = langevin, scale, restart
        self.data_noise, self.squares, self.limit, self.steps = data_noise, squares, limit, steps
        self._replay = (Replay(places, latents.shape, context.tokens),)
        self._passed: list[tuple[Tensor, ...]] = []  # rows, places, samples, contexts and ages of the update under way

    @property
    def replay(self) -> Replay:
        """The buffer of past samples, which is not kept."""
        return self._replay[0]

    def beside(self) -> nn.Module:
        return self.replay

    def sides(self) -> list[Side]:
        return [Side("prior", (self,), lambda z, c, random, update, shared: self._contrast(z, c, random))]

    def unscaled(self, z: Latent, c: Context) -> Values:
        """f(z, c), (b,), in float32."""
        with torch.autocast(z.device.type, enabled=False):
            tokens = None if c.tokens is None else c.tokens.float()
            return self.network(z.float(), Context(tokens, c.mask))

    def energy(self, z: Latent, c: Context) -> Values:
        """E(z, c) in nats, (b,): minus log p(z | c) but for log Z(c), which is not known."""
        return 0.5 * z.float().square().flatten(1).sum(1) + self.scale * self.unscaled(z, c)

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return self._contrast(z, c, random or Random.fresh(len(z), z.device))[0]

    def _contrast(self, z: Latent, c: Context, random: Random) -> tuple[Terms, Terms]:
        made = self._carried_on(z, c, random)
        real = self.unscaled(z + self.data_noise * random.normal("data noise", tuple(z.shape[1:])), c)
        fake = self.unscaled(made, c)
        gap = fake.mean() - real.mean()
        refused = torch.where(gap.detach().abs() <= self.limit, 0.0, torch.nan)
        terms = {
            "contrastive": -gap + refused * gap,
            "squares": self.squares * (real.square().mean() + fake.square().mean()),
        }
        return terms, {"real": real.detach().mean(), "fake": fake.detach().mean()}

    @torch.no_grad()
    def _carried_on(self, z: Latent, c: Context, random: Random) -> Latent:
        """Samples (b, c, h, w) of chains that go on from the buffer; in training they are kept for `conclude`."""
        shape, replay = tuple(z.shape[1:]), self.replay
        contexts = z.new_zeros(len(z), 0) if c.tokens is None else masked_mean(c.tokens, c.mask).float()
        places = replay.places(contexts, random)
        age = replay.age[places]
        anew = self._is_new(age, random)
        x = torch.where(anew[:, None, None, None], random.normal("start", shape), replay.samples[places])
        made = self._drawn(x, c, random)
        if self.training:
            age = torch.where(anew, 0, age) + self.langevin.steps
            self._passed.append((random.rows, places, made, contexts, age))
        return made

    def _is_new(self, age: Int[Tensor, " b"], random: Random) -> Bool[Tensor, " b"]:
        return (random.uniform("restart") < self.restart) | (age == 0)

    @torch.no_grad()
    def conclude(self) -> Terms:
        """Put the samples of the update's batch, of all micro-batches and ranks, into the buffer."""
        if not self._passed:
            return {}
        passed = [of_all_ranks(torch.cat(parts)) for parts in zip(*self._passed, strict=True)]
        self._passed.clear()
        order = passed[0].argsort()
        self.replay.put(*(each[order] for each in passed[1:]))
        return {"chain age": passed[-1].float().mean()}

    def _drawn(self, x: Latent, c: Context, random: Random, steps: int | None = None) -> Latent:
        return self.langevin(lambda x: self.energy(x, c), x, random, steps)

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        return self._drawn(random.normal("prior", tuple(shape[1:])), c, random, self.steps)

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Values]:
        """f of held-out data, which rises against that of training data (`real`) where f knows those by heart."""
        return {"f": self.unscaled(z, c)}

    def networks(self) -> list[nn.Module]:
        return [self.network]

    def flops(self) -> int:
        z = torch.empty(1, *self.latents.shape, device="meta")
        return flops(self.network, z, context_on_meta(self.context, self.latents.shape))[0]
