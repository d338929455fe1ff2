"""Diffusion as a prior: eight independent pieces put together, and no formula of its own.

The loss is the weighted |F - (a x + b eps)|^2 at stratified times; a sample follows a grid by a sampler, through a
guided denoiser. In training, and there only, a condition is dropped with probability `drop`, so that the network knows the
unconditional score, too.

A sample begins at the grid's first time t with x_t ~ N(0, alpha^2 + sigma^2): the mean and variance of whitened latents
under noise. At t = 1 that is pure noise or almost; a grid that begins below (`leading`) has some signal there, and
sigma eps alone would have too little variance. Where variance is preserved it is the unit normal of published samplers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.diffusion.denoiser import Denoiser, NetworkDenoiser, Rescheduled
from ldm.diffusion.flow import length
from ldm.diffusion.grid import Grid
from ldm.diffusion.guidance.autoguidance import waits_for_guide
from ldm.diffusion.guidance.base import Guidance
from ldm.diffusion.likelihood import Flow, Hutchinson
from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.time import TimeLaw
from ldm.diffusion.weighting import Weighting
from ldm.prior.base import Likelihood, Prior
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Probability

log = logging.getLogger(__name__)


class Diffusion(Prior, Likelihood):
    """
    Arguments:
        latent_shape, context: what is modelled and what it is given; known when the first stage and the conditioner are.
        backbone: waits for (channels, context) and gives F(z, log_snr, c).
        guidance: waits for a denoiser and gives the guided one that samples.
        steps: of the sampler.
        drop: the probability that an example is trained without its condition.
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

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
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
        drop: Probability = 0.1,
        offset_noise: NonNegativeFloat = 0.0,
        sampling_schedule: Schedule | None = None,
        likelihood: Flow | None = None,
    ):
        super().__init__()
        parameterization.check(schedule)
        if waits_for_guide(guidance):
            raise ValueError(
                "autoguidance needs a guide, a model trained less or smaller, which training does not have: train with "
                "diffusion/guidance=classifier_free, then sample.py or evaluate.py with diffusion/guidance=autoguidance "
                "guide=DIR"
            )
        self.latent_shape, self.context = latent_shape, context
        network = backbone(channels=latent_shape[0], context=context)
        self.denoiser = NetworkDenoiser(network, schedule, parameterization)
        self.weighting, self.time = weighting, time
        self.sampler, self.grid, self.guidance, self.steps, self.drop = sampler, grid, guidance, steps, drop
        self.offset_noise, self.sampling_schedule = offset_noise, sampling_schedule
        self.likelihood = likelihood or Flow(Hutchinson())
        self.kind = self.likelihood.kind
        self._told: Callable[[Denoiser], Denoiser] | None = None
        self._tell_of_drop(guidance(self.denoiser))

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
        if self.training:
            c = c.drop(self.drop, random.uniform("drop"))
        return {"diffusion": self.errors(z, c, u, eps).mean()}

    def sample(self, shape: tuple[int, int, int, int], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        denoiser = self.guided()
        if self.guidance is not self._told:  # it may have been given since
            self._tell_of_drop(denoiser)
            self._told = self.guidance
        times = self.grid(denoiser.schedule, self.steps, self.lowest(denoiser.schedule))
        scale = length(denoiser.schedule, times[:1].to(random.rows.device))
        x = scale * random.normal("prior", tuple(shape[1:]))
        return self.sampler(denoiser, x, times, c, random)

    def _tell_of_drop(self, guided: Denoiser) -> None:
        if self.drop > 0 or self.context == ContextShape():
            return
        if any(isinstance(module, Guidance) and module.unconditional for module in guided.modules()):
            log.warning(
                "guidance asks for the answer without a condition, which prior.drop=0 never trains: its samples mean nothing; "
                "take guidance of scale 1, or train with prior.drop=0.1"
            )

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

    def log_prob(self, z: Latent, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,), of the model as it was trained, without guidance; hundreds of network calls."""
        random = random or Random(0, 0, torch.arange(len(z), device=z.device))
        return self.likelihood.log_prob(self.denoiser, z, c, random)
