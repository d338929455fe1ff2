"""Diffusion as a prior: eight independent pieces put together, and no formula of its own.

The loss is the weighted |F - (a x + b eps)|^2 at stratified times; a sample follows a grid by a sampler, through a
guided denoiser. A condition is dropped with probability `drop`, so that the network knows the unconditional score, too.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.diffusion.denoiser import Denoiser, NetworkDenoiser
from ldm.diffusion.grid import Grid
from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.time import TimeLaw
from ldm.diffusion.weighting import Weighting
from ldm.prior.base import Prior
from ldm.random import Random
from ldm.types import Context, ContextShape, Latent, Probability


class Diffusion(Prior):
    """
    Arguments:
        latent_shape, context: what is modelled and what it is given; known when the first stage and the conditioner are.
        backbone: waits for (channels, context) and gives F(z, log_snr, c).
        guidance: waits for a denoiser and gives the guided one that samples.
        steps: of the sampler.
        drop: the probability that an example is trained without its condition.
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
    ):
        super().__init__()
        parameterization.check(schedule)
        self.latent_shape = latent_shape
        network = backbone(channels=latent_shape[0], context=context)
        self.denoiser = NetworkDenoiser(network, schedule, parameterization)
        self.weighting, self.time = weighting, time
        self.sampler, self.grid, self.guidance, self.steps, self.drop = sampler, grid, guidance, steps, drop

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
        if self.training:
            c = c.drop(self.drop, random.uniform("drop"))
        return {"diffusion": self.errors(z, c, u, eps).mean()}

    def sample(self, shape: tuple[int, int, int, int], c: Context, random: Random | None = None) -> Latent:
        random = random or Random.fresh(shape[0])
        times = self.grid(self.denoiser.schedule, self.steps)
        # x_1 = sigma eps: a schedule that stops short of pure noise (or explodes) says so by its sigma.
        _, sigma = self.denoiser.schedule.alpha_sigma(times[:1].to(random.rows.device))
        x = sigma * random.normal("prior", tuple(shape[1:]))
        return self.sampler(self.guidance(self.denoiser), x, times, c, random)
