"""Consistency: a diffusion's denoiser, tuned until it gives the same latent all along a path, so that one evaluation draws a
sample.

Let tau = sigma / alpha, and x_tau = x + tau eps. A consistency function f gives of every point of a path of the
probability-flow ODE its end at tau = 0 (Song et al. 2023). At the end itself f(x, 0) = x, which a denoiser fulfils if the factor
of its network vanishes there. A diffusion's denoiser is such a function but for its blur, and easy consistency tuning (Geng et
al. 2024, section 3) goes on from it by

    w d(f(x_tau, tau), f(x_rho, rho)),    w = 1 / (tau - rho),    d(x, y) = sqrt(|x - y|^2 + c^2) - c,
    rho = tau max(0, 1 - n(tau) / q^(a + 1)),    n(tau) = 1 + k / (1 + e^(b tau / 2)),

with the same x, eps and dropout in both and no gradient through the second; |.|^2 is a mean over the numbers of a latent. a = 0,
1, ... is one more after every `every` updates, up to `last`, and lets the two points approach each other. At first rho is 0
at low noise, where f(x_rho, rho) is x: tuning starts as the training of a diffusion. The half in n is that the paper's data have
deviation 1/2 and latents 1; likewise the law of tau has the paper's mean of log tau, -1.1, plus log 2.

A sample is f(sqrt(1 + tau^2) eps, tau) at tau = `highest`, where latents of variance 1 are lost in noise, or at the end of a
schedule that ends below; a second evaluation is of that sample, noised again to `middle`.

What makes it fail: to begin from random weights; published numbers of that are not reproduced. A first evaluation at a tau that
training hardly visits, as that of t = 1 on straight paths, which is infinite: in the plane a network gives anything there
(experiments/ring). An a that grows too fast for the number of updates; too few updates leave samples blurred as a denoiser's are.

Sources:
    Geng et al., Consistency Models Made Easy (2024), arXiv 2406.14548
    Song et al., Consistency Models (2023), arXiv 2303.01469
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.cost import backbone_flops
from ldm.diffusion.denoiser import NetworkDenoiser, along
from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.time import TimeLaw
from ldm.prior.base import Latents, Prior, Side, Terms
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Time


class Consistency(Prior):
    """A prior whose denoiser gives the end of a path from any point of it.

    Its weights have the names of a diffusion's, so that it begins from one by `prior.checkpoint=RUN`, with the same backbone,
    schedule and parameterization.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        backbone: waits for (channels, context) and gives F(z, log_snr, c).
        schedule, parameterization: of the diffusion.
        time: the law of tau.
        steps: evaluations for a sample, 1 or 2.
        middle: tau to which a sample is noised for its second evaluation.
        highest: tau of the first evaluation; two deviations above the mean of log tau under the law of conf/prior.
        q, k, b: how near rho is to tau.
        every: updates after which a grows by one.
        last: the greatest a.
        c: where the distance turns from the squared error to the absolute one.
    """

    DRAWING: ClassVar = ("steps", "middle", "highest")
    SPATIAL: ClassVar = True
    TUNES: ClassVar = "a diffusion's run of the same backbone, schedule and parameterization"

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        backbone: Callable[..., nn.Module],
        schedule: Schedule,
        parameterization: Parameterization,
        time: TimeLaw,
        steps: Literal[1, 2] = 1,
        middle: PositiveFloat = 1.64,
        q: Annotated[float, Field(gt=1)] = 2.0,
        k: NonNegativeFloat = 8.0,
        b: PositiveFloat = 1.0,
        every: PositiveInt = 250,
        last: NonNegativeInt = 7,
        c: PositiveFloat = 1e-3,
        highest: PositiveFloat = 40.0,
    ):
        super().__init__(latents, context)
        parameterization.check(schedule)
        network = backbone(channels=latents.shape[0], context=context)
        self.denoiser = NetworkDenoiser(network, schedule, parameterization)
        self.time, self.steps, self.middle, self.highest = time, steps, middle, highest
        self.q, self.k, self.b, self.every, self.last, self.c = q, k, b, every, last, c
        self._check_end()

    def _check_end(self) -> None:
        """ValueError where f(x, 0) = x does not follow from the parameterization."""
        schedule, t = self.denoiser.schedule, torch.tensor([1e-5], dtype=torch.float64)
        alpha, sigma = schedule.alpha_sigma(t)
        a, b = self.denoiser.parameterization.pair(schedule, t)
        factor = abs((sigma / (alpha * b - sigma * a)).item())
        if factor > 0.5:
            raise ValueError(
                f"a consistency function is the identity without noise, and with {type(self.denoiser.parameterization).__name__} "
                f"prediction the network counts there by a factor of {factor:.2g}; tune a diffusion of "
                "diffusion/parameterization=velocity, v or karras"
            )

    @property
    def factor(self) -> int:
        backbone = self.denoiser.backbone
        return backbone.factor if isinstance(backbone, Backbone) else 1

    def ends(self, x: Latent, tau: Time, c: Context) -> Latent:
        """f(x, tau), (b, c, h, w), of noisy latents x = clean + tau eps."""
        schedule = self.denoiser.schedule
        t = torch.where(tau > 0, schedule.time(-2 * tau.clamp(min=1e-10).log()), 0)
        return self.denoiser(along(schedule.alpha_sigma(t)[0], x) * x, t, c)

    def nearer(self, tau: Time, a: int) -> Time:
        """rho, (b,)."""
        n = 1 + self.k * torch.sigmoid(-self.b * tau / 2)
        return tau * (1 - n / self.q ** (a + 1)).clamp(min=0)

    def errors(self, z: Latent, c: Context, random: Random, a: int) -> Float[Tensor, " b"]:
        """w d for each example, (b,)."""
        z, schedule = z.float(), self.denoiser.schedule
        tau = torch.exp(-schedule.log_snr(self.time(random.stratified("time"), schedule)) / 2)
        rho, eps = self.nearer(tau, a), random.normal("noise", tuple(z.shape[1:]))
        devices = [z.device] if z.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():  # dropout draws the same again for the other
            wanted = self.ends(z + along(rho, z) * eps, rho, c)
        found = self.ends(z + along(tau, z) * eps, tau, c)
        square = (found - wanted).square().flatten(1).mean(1)
        return ((square + self.c**2).sqrt() - self.c) / (tau - rho)

    def sides(self) -> list[Side]:
        def loss(z: Latent, c: Context, random: Random, update: int, shared: dict[str, Any]) -> tuple[Terms, Terms]:
            return {"consistency": self.errors(z, c, random, min(update // self.every, self.last)).mean()}, {}

        return [Side("prior", (self,), loss)]

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        """That of the first updates."""
        return self.sides()[0].loss(z, c, random or Random.fresh(len(z), z.device), 0, {})[0]

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """The loss of each example at the last a, whichever training has come to."""
        return {"consistency": self.errors(z, c, random, self.last)}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        one = torch.ones(random.rows.shape[0], device=random.rows.device)
        tau = torch.exp(-self.denoiser.schedule.log_snr(one) / 2).clamp(max=self.highest)
        noise = random.normal("prior", tuple(shape[1:]))
        z = self.ends(along((1 + tau.square()).sqrt(), noise) * noise, tau, c)
        for step in range(1, self.steps):
            tau = self.middle * one
            z = self.ends(z + self.middle * random.normal(f"noise {step}", tuple(shape[1:])), tau, c)
        return z

    def networks(self) -> list[nn.Module]:
        return [self.denoiser.backbone]

    def flops(self) -> int | None:
        return backbone_flops(self.denoiser.backbone, self.latents.shape, self.context)
