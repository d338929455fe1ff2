"""Equilibrium matching: a field that is zero at data and leads to them from noise, at no time (Wang and Du 2025).

A network f without a time learns, at all noise levels at once, the direction away from data, of a size that falls to zero
where the data are,

    x_g = g z + (1 - g) n,   n ~ N(0, 1),  g ~ U(0, 1);      loss = mean |f(x_g, c) - (n - z) w(g)|^2,
    w(g) = size min(1, (1 - g) / (1 - hold)),

so f is the gradient of an energy with its minima at data, as far as it is a gradient: trained as a flow is, with no sampler
within. With `Dot` there is one: the gradient of E(x, c) = x . f(x, c) is matched in the place of f, at the price of a second
derivative. Samples go down from noise by gradient descent with a look ahead, y_k = x_k - momentum step f_{k-1},

    x_{k+1} = x_k - step f_k,    f_k = f(y_k, c),

for as many steps as one likes; step * size * steps is how often the way from noise to data is gone (1.7 in the paper: .0017, 4
and 250), and of what is left at g = hold each further step takes step * size / (1 - hold).

What makes it fail. E is low at data and high at noise because w says so, and not by how much data there is: exp(-E) is no
density, and E compares how far two latents are from data. The field is the mean of the ways that lead away from x, as in flow
matching; but nothing tells the noise levels apart than x itself, so in few dimensions, where noise and data overlap, it is a
mean over levels, too. Too small a step stops short of the data, too large a one
(step * size / (1 - hold) above 2) jumps over them without end.

The network is a backbone, which is told a log-SNR of 0 at every level.

Sources:
    Wang and Du, Equilibrium Matching: Generative Modeling with Implicit Energy-Based Models (2025), arXiv 2510.02300
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.backbone.base import Backbone
from ldm.constructed import Constructed
from ldm.cost import backbone_flops
from ldm.prior.base import Latents, Prior, Terms
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Time

Map = Callable[[Latent], Latent]


class Form(Constructed, ABC):
    """What a network's answer f says of the field."""

    @abstractmethod
    def field(self, network: Map, x: Latent) -> Latent:
        """The field at x (b, c, h, w)."""


class Implicit(Form):
    """f is the field."""

    def field(self, network: Map, x: Latent) -> Latent:
        return network(x)


class Dot(Form):
    """The field is the gradient of the energy x . f(x).

    Attention is computed by its formula, for fused kernels have no second derivative; neither has a compiled network."""

    def energy(self, network: Map, x: Latent) -> Time:
        """x . f(x), (b,)."""
        return (x * network(x)).flatten(1).sum(1)

    def field(self, network: Map, x: Latent) -> Latent:
        learns = torch.is_grad_enabled()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.energy(network, x).sum(), x, create_graph=learns)[0]


class Equilibrium(Prior):
    """A field without time, whose zeros are data, and gradient descent along it.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        backbone: waits for (channels, context) and gives F(z, log_snr, c), which is asked at log_snr = 0 alone.
        form: what the network's answer says of the field: it is the field (`Implicit`), or x . f is its energy (`Dot`).
        hold: the g up to which the field has its full size.
        size: of the field at noise, as a multiple of n - z.
        steps: of gradient descent.
        step: its size.
        momentum: how far it looks ahead, in steps; 0 is plain gradient descent.
        guidance: classifier-free: 1 is the conditional field, more goes further away from the unconditional one.
    """

    DRAWING: ClassVar = ("steps", "step", "momentum", "guidance")
    SPATIAL: ClassVar = True

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        backbone: Callable[..., nn.Module],
        form: Form,
        hold: Annotated[float, Field(ge=0, lt=1)] = 0.8,
        size: PositiveFloat = 4.0,
        steps: PositiveInt = 100,
        step: PositiveFloat = 0.00425,
        momentum: NonNegativeFloat = 0.35,
        guidance: NonNegativeFloat = 1.0,
    ):
        super().__init__(latents, context)
        self.backbone = backbone(channels=latents.shape[0], context=context)
        self.form, self.hold, self.size = form, hold, size
        self.steps, self.step, self.momentum, self.guidance = steps, step, momentum, guidance

    @property
    def factor(self) -> int:
        return self.backbone.factor if isinstance(self.backbone, Backbone) else 1

    def _network(self, c: Context) -> Map:
        return lambda x: self.backbone(x, x.new_zeros(len(x)), c).float()

    def field(self, x: Latent, c: Context) -> Latent:
        """The learnt field at x (b, c, h, w), in float32."""
        return self.form.field(self._network(c), x)

    def energy(self, z: Latent, c: Context) -> Time:
        """E(z, c), (b,), which is low at data and is no log-density; ValueError where the network gives none."""
        if not isinstance(self.form, Dot):
            raise ValueError(
                "prior.form=Implicit learns a field alone; train with prior.form._target_=ldm.prior.equilibrium.Dot"
            )
        return self.form.energy(self._network(c), z)

    def weight(self, g: Time) -> Time:
        """w(g), (b,)."""
        return self.size * ((1 - g) / (1 - self.hold)).clamp(max=1)

    def errors(self, z: Latent, c: Context, random: Random) -> Float[Tensor, " b"]:
        """The mean squared error of the field at one noisy point of each example, (b,)."""
        g, noise = random.stratified("level"), random.normal("noise", tuple(z.shape[1:]))
        share, weight = (each[:, None, None, None] for each in (g, self.weight(g)))
        field = self.field(share * z + (1 - share) * noise, c)
        return (field - weight * (noise - z)).square().flatten(1).mean(1)

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return {"equilibrium": self.errors(z, c, random or Random.fresh(len(z), z.device)).mean()}

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        return {"equilibrium": self.errors(z, c, random)}

    def guided(self, x: Latent, c: Context) -> Latent:
        """The field that samples follow."""
        if self.guidance == 1 or c.empty is None:
            return self.field(x, c)
        plain, null = self.field(torch.cat([x, x]), Context.cat([c, c.null()])).chunk(2)
        return null + self.guidance * (plain - null)

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        x = random.normal("prior", tuple(shape[1:]))
        before = torch.zeros_like(x)
        for _ in range(self.steps):
            before = self.guided(x - self.momentum * self.step * before, c)
            x = x - self.step * before
        return x

    def networks(self) -> list[nn.Module]:
        return [self.backbone]

    def flops(self) -> int | None:
        return backbone_flops(self.backbone, self.latents.shape, self.context)

    def asks_null(self) -> bool:
        return self.guidance != 1
