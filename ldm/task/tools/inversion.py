"""Of which noise a latent is made, and which latent noise makes: exactly where a prior is a bijection, by reversed times where it
is a diffusion.

A sampler of the probability-flow ODE that is run along increasing times goes from a latent to noise (Song et al., section 4.3,
with DDIM's rule), and along decreasing times back. Both are approximations whose error falls as 1 / steps with DDIM, so what
comes back is not quite what went in: the error of the round trip has to be said. The first step from the data is
x_s = alpha_s x, for the best guess of noise at no noise is none.

What makes it fail: guidance, under which the ODE that is solved backwards is not the one that was solved forwards (Mokady et al.,
section 3), so inversion takes none; few steps; latents unlike the training data's, which go to noise that is not normal.

Sources:
    Song et al., Denoising Diffusion Implicit Models (2020), arXiv 2010.02502
    Mokady et al., Null-text Inversion for Editing Real Images using Guided Diffusion Models (2022), arXiv 2211.09794
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ldm.constructed import Constructed
from ldm.diffusion.denoiser import Denoiser, Rescheduled, along
from ldm.diffusion.flow import length
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.model import LatentModel
from ldm.prior.base import Invertible
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, Latent

REVERSIBLE = (Invertible, Diffusion)
"""Kinds of priors that `Inversion` knows the noise of."""


class Inversion(Constructed):
    """From latents to noise and back.

    Arguments:
        steps: of a diffusion's ODE, each way.
        sampler: that solves it; one that adds no noise.
    """

    def __init__(self, steps: PositiveInt = 50, sampler: Sampler | None = None):
        self.steps, self.sampler = steps, sampler or DDIM()
        if self.sampler.stochastic:
            raise ValueError(
                f"inversion.sampler: {type(self.sampler).__name__} adds noise and cannot go back; take one of "
                "the ODE, as ddim or heun"
            )

    def to_noise(self, model: LatentModel, z: Latent, c: Context) -> Latent:
        """u (b, c, h, w), standard normal where z is distributed as the prior says."""
        if isinstance(model.prior, Invertible):
            return model.prior.to_noise(z, c)
        times = self.times(model.prior, 1.0)
        x_t = self.along(model.prior, z, times.flip(0), c)
        return x_t / along(_scale(model.prior, times[:1], z), z)

    def from_noise(self, model: LatentModel, u: Latent, c: Context) -> Latent:
        """z (b, c, h, w), of which to_noise makes u, up to the solver's error."""
        if isinstance(model.prior, Invertible):
            return model.prior.from_noise(u, c)
        times = self.times(model.prior, 1.0)
        return self.along(model.prior, along(_scale(model.prior, times[:1], u), u) * u, times, c)

    def times(self, prior: Diffusion, start: float) -> Float[Tensor, " n"]:
        """Decreasing times from `start` to 0 in equal steps of t, float32 on the CPU; none but the last is below the lowest that
        was trained."""
        lowest = prior.lowest(plain(prior).schedule)
        if start <= lowest:
            raise ValueError(f"noise is of times above {lowest:.4g}, the lowest that was trained; got {start:g}")
        times = torch.linspace(start, 0, self.steps + 1, dtype=torch.float64)
        return torch.cat([times[:-1].clamp(min=lowest), times[-1:]]).float()

    def along(self, prior: Diffusion, x_t: Latent, times: Float[Tensor, " n"], c: Context) -> Latent:
        """Where the ODE carries x_t (b, c, h, w) along times, without guidance."""
        rows = Random(0, 0, torch.arange(len(x_t), device=x_t.device))  # asked for nothing
        return self.sampler(plain(prior), x_t, times, c, rows)


def plain(prior: Diffusion) -> Denoiser:
    """The denoiser on the schedule that samples, without guidance."""
    other = prior.sampling_schedule
    return prior.denoiser if other is None else Rescheduled(prior.denoiser, other)


def _scale(prior: Diffusion, t: Float[Tensor, " 1"], like: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2), (1,)."""
    return length(plain(prior).schedule, t.to(like.device))
