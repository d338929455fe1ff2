"""Diffusion as a prior: eight independent pieces put together, and no formula of its own.

The loss is the weighted |F - (a x + b eps)|^2 at stratified times, the equation at the head of ldm.diffusion.weighting; a
sample follows a grid by a sampler, through a guided denoiser.

A sample begins at the grid's first time t with x_t ~ N(0, alpha^2 + sigma^2): the mean and variance of whitened latents
under noise. At t = 1 that is pure noise or almost; a grid that begins below (`leading`) has some signal there, and
sigma eps alone would have too little variance. Where variance is preserved it is the unit normal of published samplers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.cost import backbone_flops
from ldm.diffusion.denoiser import Denoiser, NetworkDenoiser, Rescheduled, Watched
from ldm.diffusion.flow import length
from ldm.diffusion.grid import Grid
from ldm.diffusion.guidance.autoguidance import Guide, waits_for_guide, with_guide
from ldm.diffusion.guidance.base import Guidance
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.likelihood import Flow, Hutchinson
from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.time import TimeLaw
from ldm.diffusion.weighting import Weighting
from ldm.prior.base import Gradual, Latents, Likelihood, Prior
from ldm.prior.quarters import by_quarter
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent


class Diffusion(Prior, Likelihood, Gradual):
    """A prior that learns to remove noise from latents, and draws samples by removing it step by step from noise alone.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the conditioner are.
        backbone: waits for (channels, context) and gives F(z, log_snr, c).
        guidance: waits for a denoiser and gives the guided one that samples.
        steps: of the sampler.
        offset_noise: deviation of a normal number a channel that is added to the noise in training, so that the mean of an
            image is learnt at high noise, too (Guttenberg 2023, "Diffusion with offset noise", where it is 0.1).
        sampling_schedule: that samples follow, where it is not the one of training.
        likelihood: how log_prob is found; by default Hutchinson's estimate with one probe, to a tolerance of 1e-5.
        schedule: alpha and sigma at each time.
        parameterization: what the network predicts of x and eps.
        weighting: how much an error counts at each noise level.
        time: which noise levels are trained how often.
        sampler: one step from a time to the next.
        grid: the times of the steps.
    """

    DRAWING: ClassVar = ("sampler", "grid", "guidance", "steps", "sampling_schedule")
    SPATIAL: ClassVar = True

    def __init__(
        self,
        latents: Latents,
        context: ContextShape,
        backbone: Callable[..., nn.Module],
        schedule: Schedule,
        parameterization: Parameterization,
        weighting: Weighting,
        time: TimeLaw,
        sampler: Sampler,
        grid: Grid,
        guidance: Callable[[Denoiser], Denoiser],
        steps: PositiveInt = 50,
        offset_noise: NonNegativeFloat = 0.0,
        sampling_schedule: Schedule | None = None,
        likelihood: Flow | None = None,
    ):
        super().__init__(latents, context)
        parameterization.check(schedule)
        if waits_for_guide(guidance):
            raise ValueError(
                "autoguidance needs a guide, a model trained less or smaller, which training does not have: train with "
                "diffusion/guidance=classifier_free, then draw samples with diffusion/guidance=autoguidance guide=DIR"
            )
        network = backbone(channels=latents.shape[0], context=context)
        self.denoiser = NetworkDenoiser(network, schedule, parameterization)
        self.weighting, self.time = weighting, time
        self.sampler, self.grid, self.guidance, self.steps = sampler, grid, guidance, steps
        self.offset_noise, self.sampling_schedule = offset_noise, sampling_schedule
        self.likelihood = likelihood or Flow(Hutchinson())
        self.kind = self.likelihood.kind

    @property
    def factor(self) -> int:
        backbone = self.denoiser.backbone
        return backbone.factor if isinstance(backbone, Backbone) else 1

    def errors(self, z: Latent, c: Context, u: Tensor, eps: Latent) -> Tensor:
        """The weighted loss per example, (b,), at given places u (b,) in [0, 1) of the law of times and given noise."""
        schedule = self.denoiser.schedule
        t = self.time(u, schedule)
        errors = self.denoiser.errors(z, eps, t, c)
        return self.weighting(errors, schedule.log_snr(t), lambda: self.time.density(u, schedule).to(t.dtype))

    def loss(self, z: Latent, c: Context, random: Random | None = None) -> dict[str, Tensor]:
        random = random or Random.fresh(len(z), z.device)
        u = random.stratified("time")
        eps = random.normal("noise", tuple(z.shape[1:]))
        if self.offset_noise:
            eps = eps + self.offset_noise * random.normal("offset noise", (z.shape[1], 1, 1))
        return {"diffusion": self.errors(z, c, u, eps).mean()}

    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        return self.cleaned(random.normal("prior", tuple(shape[1:])), self.guided(), c, random)

    def cleaned(self, noise: Latent, denoiser: Denoiser, c: Context, random: Random) -> Latent:
        """What the sampler makes of standard normal noise (b, c, h, w) by a denoiser; `random` is what it adds on the way. Each
        answer of the denoiser, guided and given what was measured, is told to `watch`."""
        denoiser = denoiser if self.watch is None else Watched(denoiser, self.watch)
        times = self.grid(denoiser.schedule, self.steps, self.lowest(denoiser.schedule))
        scale = length(denoiser.schedule, times[:1].to(random.rows.device))
        return self.sampler(denoiser, scale * noise, times, c, random)

    def lowest(self, schedule: Schedule) -> float:
        """The lowest time that was trained, said in times of the `schedule` that samples."""
        own = self.denoiser.schedule
        t = self.time.lowest(own)
        if schedule is own or t == 0:
            return t
        return schedule.time(own.log_snr(torch.tensor([t], dtype=torch.float64))).item()

    def guided(self) -> Denoiser:
        """The denoiser that samples: on its schedule, and guided."""
        other = self.sampling_schedule
        return self.guidance(self.denoiser if other is None else Rescheduled(self.denoiser, other))

    def held_out(self, z: Latent, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """The loss per example at fixed noise, of all and by quarter of the time."""
        u = random.stratified("time")
        error = self.errors(z, c, u, random.normal("noise", tuple(z.shape[1:])))
        return {"diffusion": error, **by_quarter(error, self.time(u, self.denoiser.schedule))}

    def networks(self) -> list[nn.Module]:
        """The backbone and, under autoguidance, the guide's."""
        return [module.backbone for module in self.guided().modules() if isinstance(module, NetworkDenoiser)]

    def flops(self) -> int | None:
        return backbone_flops(self.denoiser.backbone, self.latents.shape, self.context)

    def asks_null(self) -> bool:
        return any(isinstance(module, Guidance) and module.unconditional for module in self._around())

    def check_negative(self) -> None:
        found = [module for module in self._around() if isinstance(module, ClassifierFree)]
        if not found:
            raise ValueError(
                "negative= takes the place of 'no condition', which this guidance does not ask for; take "
                "diffusion/guidance=classifier_free"
            )
        if found[0].scale <= 1:
            raise ValueError(f"negative= is what guidance above 1 moves away from; here guidance={found[0].scale:g}")

    def _around(self) -> list[nn.Module]:
        """The guided denoiser and all that it is made of; none while guidance waits for a guide."""
        return [] if waits_for_guide(self.guidance) else list(self.guided().modules())

    def guided_by(self, other: Prior | None, same_schedule: bool = True) -> bool:
        if not waits_for_guide(self.guidance):
            if other is not None:
                raise ValueError("guide= is of diffusion/guidance=autoguidance; this run's guidance has no guide")
            return False
        if other is None:
            raise ValueError(
                "diffusion/guidance=autoguidance moves away from a worse model: give guide=DIR, a run trained less or "
                "smaller on the same first stage, or guide_ema=0.2, a wider average of the same run"
            )
        if not isinstance(other, Diffusion):
            raise ValueError(f"a guide is a diffusion; its prior is {type(other).__name__}")
        theirs: Denoiser = other.denoiser
        if not same_schedule:
            theirs = Rescheduled(theirs, self.sampling_schedule or self.denoiser.schedule)
        self.guidance = with_guide(self.guidance, Guide(theirs))
        return True

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,), of the model as it was trained, without guidance; hundreds of network calls."""
        random = random or Random(0, 0, torch.arange(len(z), device=z.device))
        return self.likelihood.log_prob(self.denoiser, z, c, random)
