"""Continuous normalizing flows: latents and noise are the two ends of an ordinary differential equation.

    dz/dt = v(z, t, c),    z(0) a latent, z(1) ~ N(0, 1),    log p(z(0) | c) = log N(z(1)) + int_0^1 tr dv/dz dt

(Chen et al. 2018, theorem 1). The trace is Hutchinson's estimate e . (dv/dz) e with random signs e that are drawn once for a
solution, so that it is the solution of an equation (Grathwohl et al. 2018, section 3.1); all products with the Jacobian are
forward derivatives. One network, two trainings:

`MaximumLikelihood` minimises -log p through the solver. Each evaluation of the field is recomputed in the backward pass, so
that memory grows with their number by one latent each. Two terms keep the equation easy to solve (Finlay et al. 2020),

    kinetic int |v|^2 dt + jacobian int |(dv/dz) e|^2 dt,

per dimension as the likelihood is; the second is an estimate of the Frobenius norm of the Jacobian.

`FlowMatching` regresses v on the velocity eps - z of straight paths (1 - t) z + t eps without solving anything (Lipman et al.
2022), on pairs (z, eps) of a coupling (`ldm.prior.coupling`).

What makes it fail: noise drawn anew at each evaluation, after which no step is small enough; a field that becomes stiff as
training goes on, so that evaluations, which are logged, grow without end (the two terms are for this); likelihood by a loose
tolerance, which then is that of another model. By maximum likelihood a step costs dozens of evaluations, flow matching one.

Sources:
    Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366
    Grathwohl et al., FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (2018),
        arXiv 1810.01367
    Finlay et al., How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization (2020), arXiv 2002.02798
    Lipman et al., Flow Matching for Generative Modeling (2022), arXiv 2210.02747
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ldm.backbone.base import Backbone
from ldm.constructed import Constructed
from ldm.cost import backbone_flops
from ldm.diffusion.denoiser import along
from ldm.diffusion.likelihood import Divergence, Hutchinson
from ldm.diffusion.schedule import Rectified
from ldm.diffusion.time import TimeLaw, Uniform
from ldm.nn.embedding import IntervalEmbedding
from ldm.ode import DormandPrince, Solution, Solver
from ldm.prior.base import Invertible, Latents, Likelihood, Part, Prior, Side, Terms
from ldm.prior.coupling import Coupling, Independent
from ldm.prior.quarters import by_quarter
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Time


class Objective(Constructed, ABC):
    """A way to learn the field of a flow. A new one writes `losses`.

    Attributes:
        coupling: of latents and noise, where it learns from pairs.
    """

    coupling: Coupling = Independent()

    @property
    def adaptive(self) -> bool:
        """Whether the examples decide how often the network is asked."""
        return False

    @abstractmethod
    def losses(
        self, flow: CNF, z: Latent, c: Context, random: Random, noise: Latent | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms whose sum is minimised and values only to log, each of every example, (b,).

        Arguments:
            noise: of each latent, as they were paired; without it, that of its own row, and no other latent changes what an
                example loses.
        """

    def held_out(self, flow: CNF, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """What `Prior.held_out` gives; by default all that `losses` does."""
        terms, values = self.losses(flow, z, c, random)
        return terms | values


class CNF(Prior, Likelihood, Invertible):
    """A prior that moves noise to latents along the solution of a differential equation.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        backbone: waits for (channels, context, time) and gives the field v as F(z, log_snr, c).
        objective: how the field is learnt.
        solver: of samples, and of likelihoods; by default to a tolerance of 1e-4.
        divergence: how log_prob takes the trace; by default Hutchinson's estimate with one probe.
    """

    DRAWING: ClassVar = ("solver",)
    SPATIAL: ClassVar = True

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        backbone: Callable[..., nn.Module],
        objective: Objective,
        solver: Solver | None = None,
        divergence: Divergence | None = None,
    ):
        super().__init__(latents, context)
        self.backbone = backbone(channels=latents.shape[0], context=context, time=IntervalEmbedding)
        self.objective, self.divergence = objective, divergence or Hutchinson()
        self.solver = solver or DormandPrince(1e-4)
        self.kind = self.divergence.kind
        self.schedule = Rectified()

    @property
    def factor(self) -> int:
        return self.backbone.factor if isinstance(self.backbone, Backbone) else 1

    def velocity(self, z: Latent, t: Time, c: Context) -> Latent:
        """v(z, t, c), (b, c, h, w), float32, at times t (b,) from 0, data, to 1, noise."""
        return self.backbone(z, self.schedule.log_snr(t), c).float()

    # Solutions

    def moved(self, z: Latent, c: Context, start: float, end: float) -> Latent:
        """The solution at the time `end` that has the value z at `start`."""

        def slope(t: Tensor, state: Tensor) -> Tensor:
            return self.velocity(state.view_as(z), t, c).flatten(1)

        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            return _solve(self.solver, slope, z.flatten(1), start, end).y.view_as(z)

    def followed(
        self,
        z: Latent,
        c: Context,
        probes: Float[Tensor, "n b z lh lw"],
        weight: float,
        solver: Solver,
        energies: bool = False,
    ) -> tuple[Solution, Float[Tensor, " b"]]:
        """The solution from latents to noise, of y (b, d + 1), and log p(z | c), (b,). The last number of y is the integral of
        the trace; with `energies` two more follow it, those of |v|^2 and of the mean over probes of |(dv/dz) e|^2.

        Arguments:
            probes, weight: of the trace, as a divergence has them.
        """
        size = z[0].numel()

        def slope(t: Tensor, state: Tensor) -> Tensor:
            v, products = self._products(state[:, :size].view_as(z), t, c, probes)
            trace = weight * (products * probes).flatten(2).sum((0, 2))
            parts = [trace]
            if energies:
                parts += [v.flatten(1).square().sum(1), products.flatten(2).square().sum(2).mean(0)]
            return torch.cat([v.flatten(1), torch.stack(parts, 1)], 1)

        def recomputed(t: Tensor, state: Tensor) -> Tensor:
            return checkpoint(slope, t, state, use_reentrant=False)

        with torch.autocast(z.device.type, enabled=False):
            state = torch.cat([z.float().flatten(1), torch.zeros(len(z), 3 if energies else 1, device=z.device)], 1)
            found = _solve(solver, recomputed if torch.is_grad_enabled() else slope, state, 0.0, 1.0)
        u = found.y[:, :size]
        return found, found.y[:, size] - (u.square().sum(1) + size * math.log(2 * math.pi)) / 2

    def _products(
        self, z: Latent, t: Time, c: Context, probes: Float[Tensor, "n b z lh lw"]
    ) -> tuple[Latent, Float[Tensor, "n b z lh lw"]]:
        """v and its Jacobian's products with each probe."""
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward derivative
            both = [torch.func.jvp(lambda z: self.velocity(z, t, c), (z,), (probe,)) for probe in probes]
        return both[0][0], torch.stack([product for _, product in both])

    # What a family writes

    def sides(self) -> list[Side]:
        def loss(z: Latent, c: Context, random: Random, update: int, shared: dict[str, Any]) -> tuple[Terms, Terms]:
            if self.prepares and "noise" not in shared:  # asked outside of a stage
                shared |= self.prepare([(z, c, random)])[0]
            terms, values = self.objective.losses(self, z, c, random, shared.get("noise"))
            return _means(terms), _means(values)

        return [Side("prior", (self,), loss)]

    @property
    def prepares(self) -> bool:
        return self.objective.coupling.together

    def prepare(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        return [{"noise": noise} for noise in self.objective.coupling(parts)]

    def whole(self) -> str | None:
        if not self.objective.adaptive:
            return None
        return (
            "how often its network is asked depends on the examples of each rank; a solver of fixed steps, as "
            "'prior.objective.solver={_target_: ldm.ode.RungeKutta, steps: 8}', asks it equally often"
        )

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return self.sides()[0].loss(z, c, random or Random.fresh(len(z), z.device), 0, {})[0]

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """The terms of the objective, of each example."""
        return self.objective.held_out(self, z, c, random)

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        return self.from_noise(random.normal("prior", tuple(shape[1:])), c)

    @torch.no_grad()
    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,)."""
        random = random or Random(0, 0, torch.arange(len(z), device=z.device))
        probes = self.divergence.probes(z.float(), random)
        return self.followed(z, c, probes, self.divergence.weight, self.solver)[1]

    @torch.no_grad()
    def to_noise(self, z: Latent, c: Context) -> Latent:
        return self.moved(z, c, 0.0, 1.0)

    @torch.no_grad()
    def from_noise(self, u: Latent, c: Context) -> Latent:
        return self.moved(u, c, 1.0, 0.0)

    def networks(self) -> list[nn.Module]:
        return [self.backbone]

    def flops(self) -> int | None:
        return backbone_flops(self.backbone, self.latents.shape, self.context)


class MaximumLikelihood(Objective):
    """-log p per dimension, by Hutchinson's estimate with one probe, and what keeps the equation easy to solve.

    Arguments:
        kinetic, jacobian: weights of the two terms.
        solver: of training, which need not be as exact as that of likelihoods; by default to a tolerance of 1e-3.
    """

    def __init__(
        self, kinetic: NonNegativeFloat = 0.01, jacobian: NonNegativeFloat = 0.01, solver: Solver | None = None
    ):
        self.kinetic, self.jacobian, self.solver = kinetic, jacobian, solver or DormandPrince(1e-3)

    @property
    def adaptive(self) -> bool:
        return self.solver.adaptive

    def losses(
        self, flow: CNF, z: Latent, c: Context, random: Random, noise: Latent | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        size, trace = z[0].numel(), Hutchinson()
        probes = trace.probes(z.float(), random)
        found, log_p = flow.followed(z, c, probes, trace.weight, self.solver, energies=True)
        kinetic, jacobian = found.y[:, -2] / size, found.y[:, -1] / size
        terms = {"nll per dimension": -log_p / size}
        terms |= {"kinetic": self.kinetic * kinetic} if self.kinetic else {}
        terms |= {"jacobian": self.jacobian * jacobian} if self.jacobian else {}
        return terms, {"evaluations": found.evaluations}


class FlowMatching(Objective):
    """The squared error of the velocity of straight paths between the pairs of a coupling.

    Arguments:
        coupling: of latents and noise; by default independent.
        time: the law of times; by default uniform.
    """

    def __init__(self, coupling: Coupling | None = None, time: TimeLaw | None = None):
        self.coupling, self.time = coupling or Independent(), time or Uniform(0.0)

    def losses(
        self, flow: CNF, z: Latent, c: Context, random: Random, noise: Latent | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        z, t = z.float(), self.time(random.stratified("time"), flow.schedule)
        eps = random.normal("noise", tuple(z.shape[1:])) if noise is None else noise
        error = flow.velocity(z + along(t, z) * (eps - z), t, c) - (eps - z)
        return {"flow matching": error.square().flatten(1).mean(1)}, {}

    def held_out(self, flow: CNF, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """The loss, of all and by quarter of the time."""
        error = self.losses(flow, z, c, random)[0]["flow matching"]
        return {"flow matching": error, **by_quarter(error, self.time(random.stratified("time"), flow.schedule))}


def _solve(solver: Solver, slope: Callable[[Tensor, Tensor], Tensor], y: Tensor, start: float, end: float) -> Solution:
    ones = torch.ones(len(y), device=y.device)
    return solver(slope, y, start * ones, end * ones)


def _means(values: dict[str, Tensor]) -> Terms:
    return {name: value.mean() for name, value in values.items()}
