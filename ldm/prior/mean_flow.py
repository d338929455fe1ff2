"""Mean flow: a network that is learnt to take a whole step of a flow at once, so that one evaluation draws a sample.

On the straight paths z_t = (1 - t) x + t eps, with the velocity v = eps - x of each pair, a flow moves along the expected
velocity v(z_t, t). The network is the mean velocity over an interval of time,

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,        so that        z_r = z_t - (t - r) u(z_t, r, t),

which is v(z_t, t) where r = t. The derivative of (t - r) u in t, along the path, gives the mean flow identity

    u(z_t, r, t) = v(z_t, t) - (t - r) d/dt u(z_t, r, t),        d/dt u = v du/dz + du/dt.

Its right side, with the network in the place of u and the velocity of the pair in the place of v, is what u is regressed on; no
gradient flows through it (Geng et al. 2025, equations 6 to 11). The total derivative is one Jacobian-vector product in the
direction (v, 0, 1) of (z, r, t). It is taken in float32 and without a graph, and the network is asked once more for the u that
learns: gradients then reach parameters by an ordinary backward pass, the only one that gathers those of other ranks.

The squared error e of an example is weighted by 1 / (e + 0.001)^power, through which no gradient flows (ibid., section 4.3):
the errors of long intervals are large and heavy-tailed. The weighted loss of power 1 is close to 1 whatever is learnt, so the
squared error is logged beside it. What it minimises is the mean of log(e + 0.001), by what is likely and not by the mean: the
same field where numbers are many, for then e hardly varies from pair to pair, and another one where they are few.

The pair's velocity in the derivative is noise, of t - r times the slope of u. With `marginal` the derivative is taken along the
network's own u(z_t, t, t) instead, which the pair's is in the mean (Geng, Lu et al. 2025), for one more evaluation
without a graph; the velocity outside of the derivative stays the pair's.

Guidance is trained in and costs nothing in sampling (ibid., section 4.2 and appendix B.1): the velocity of the pair becomes

    v_g = w v + k u(z_t, t, t; c) + (1 - w - k) u(z_t, t, t; null),

which is classifier-free guidance of the scale w / (1 - k). For an example whose condition was dropped, the expectation of v_g is
consistent with v itself.

A U-Net, a DiT or an MLP is told r and t by its embedding of time (`ldm.nn.embedding.IntervalEmbedding`), which reads the log
SNRs of both.

What makes it fail: a time embedding with fast frequencies, whose derivative drowns the target; half precision in the
Jacobian-vector product; attention kernels without a forward derivative, so that the plain formula is used within it; times
that are never drawn, for the first step begins at t = 1 and the last ends at r = 0. The loss says little of samples: where most
intervals have length 0 it is mostly that of flow matching. On points of the plane: power 1 (experiments/ring).

Sources:
    Geng et al., Mean Flows for One-step Generative Modeling (2025), arXiv 2505.13447
    Geng, Lu et al., Improved Mean Flows: On the Challenges of Fastforward Generative Models (2025), arXiv 2512.02012
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.backbone.base import Backbone
from ldm.cost import backbone_flops
from ldm.diffusion.denoiser import along
from ldm.diffusion.schedule import Rectified
from ldm.diffusion.time import TimeLaw
from ldm.nn.embedding import IntervalEmbedding
from ldm.prior.base import Latents, Prior, Side, Terms
from ldm.prior.quarters import by_quarter
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Probability, Time

_LEAST = 1e-3  # added to squared errors, so that none has an infinite weight


class MeanFlow(Prior):
    """A prior whose network gives the mean velocity of a flow over an interval, and which draws samples in one or few steps.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.
        backbone: waits for (channels, context, time) and gives F(z, log_snr, c), here of two log SNRs.
        time: the law of two times, of which the later is t and the earlier r.
        steps: evaluations of the network for a sample.
        equal: share of the examples that train r = t, the velocity of the flow itself.
        power: of the adaptive weight; 0 is the plain squared error.
        guidance: w, which is trained in; 1 is without.
        own: k, the share of the network's own conditional velocity in the guided one.
        marginal: whether the derivative is along the network's own velocity and not along the pair's.
    """

    DRAWING: ClassVar = ("steps",)
    SPATIAL: ClassVar = True

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        backbone: Callable[..., nn.Module],
        time: TimeLaw,
        steps: PositiveInt = 1,
        equal: Probability = 0.75,
        power: NonNegativeFloat = 1.0,
        guidance: PositiveFloat = 1.0,
        own: Probability = 0.0,
        marginal: bool = False,
    ):
        super().__init__(latents, context)
        self.backbone = backbone(channels=latents.shape[0], context=context, time=IntervalEmbedding)
        self.time, self.steps, self.equal, self.power = time, steps, equal, power
        self.guidance, self.own, self.marginal = guidance, own, marginal
        self.schedule = Rectified()

    @property
    def factor(self) -> int:
        return self.backbone.factor if isinstance(self.backbone, Backbone) else 1

    def velocity(self, z: Latent, t: Time, r: Time, c: Context) -> Latent:
        """u(z, r, t), the mean velocity from t to r at z (b, c, h, w), float32; t >= r, (b,) each."""
        log_snr = torch.stack([self.schedule.log_snr(t), self.schedule.log_snr(r)], 1)
        return self.backbone(z, log_snr, c).float()

    @torch.no_grad()
    def target(self, z: Latent, v: Latent, t: Time, r: Time, c: Context) -> Latent:
        """v_g - (t - r) du/dt, (b, c, h, w), at z and the pair's velocity v."""
        with torch.autocast(z.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            v = self._guided(z, v, t, c)
            # In torch 2.11 group normalisation has no forward derivative for channels-last memory (2.15 has it).
            along_path = self.velocity(z, t, t, c) if self.marginal else v
            z, moves = z.contiguous(), (along_path.contiguous(), torch.ones_like(t))
            derivative = torch.func.jvp(lambda z, t: self.velocity(z, t, r, c), (z, t), moves)[1]
        return v - along(t - r, z) * derivative

    def _guided(self, z: Latent, v: Latent, t: Time, c: Context) -> Latent:
        if self.guidance == 1 and self.own == 0:
            return v
        v = self.guidance * v + (1 - self.guidance - self.own) * self.velocity(z, t, t, c.null())
        return v + self.own * self.velocity(z, t, t, c) if self.own else v

    def times(self, random: Random) -> tuple[Time, Time]:
        """t and r <= t of each example, (b,) each."""
        one = self.time(random.stratified("time"), self.schedule)
        two = self.time(random.uniform("other time"), self.schedule)
        t = torch.maximum(one, two)
        return t, torch.where(random.uniform("equal") < self.equal, t, torch.minimum(one, two))

    def errors(self, z: Latent, c: Context, random: Random) -> Float[Tensor, " b"]:
        """The mean squared error of the identity for each example, (b,)."""
        z, (t, r) = z.float(), self.times(random)
        eps = random.normal("noise", tuple(z.shape[1:]))
        z_t, v = z + along(t, z) * (eps - z), eps - z
        target = self.target(z_t, v, t, r, c)
        return (self.velocity(z_t, t, r, c) - target).square().flatten(1).mean(1)

    def sides(self) -> list[Side]:
        def loss(z: Latent, c: Context, random: Random, update: int, shared: dict[str, Any]) -> tuple[Terms, Terms]:
            errors = self.errors(z, c, random)
            weighted = errors * (errors.detach() + _LEAST) ** -self.power
            return {"mean flow": weighted.mean()}, {"squared error": errors.detach().mean()}

        return [Side("prior", (self,), loss)]

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> Terms:
        return self.sides()[0].loss(z, c, random or Random.fresh(len(z), z.device), 0, {})[0]

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """The squared error of each example, unweighted, of all and by quarter of the later time."""
        error = self.errors(z, c, random)
        return {"mean flow": error, **by_quarter(error, self.times(random)[0])}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        z = random.normal("prior", tuple(shape[1:]))
        times = torch.linspace(1, 0, self.steps + 1, device=z.device)
        for t, r in zip(
            times[:-1].expand(z.shape[0], -1).unbind(1), times[1:].expand(z.shape[0], -1).unbind(1), strict=True
        ):
            z = z - along(t - r, z) * self.velocity(z, t, r, c)
        return z

    def networks(self) -> list[nn.Module]:
        return [self.backbone]

    def flops(self) -> int | None:
        return backbone_flops(self.backbone, self.latents.shape, self.context)

    def asks_null(self) -> bool:
        return self.guidance + self.own != 1
