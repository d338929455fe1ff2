"""Sampling of a diffusion from partway: noise is put on a latent up to a time, and the sampler goes on from there.

    x_t = alpha(t) z + sigma(t) eps,    z' ~ p(z' | x_t, c)

The sampler takes the times of its grid that are below t, so the number of steps falls with t as in SDEdit (Meng et al. 2021). A
sampler of the ODE makes one z' of x_t; one that adds noise draws from p(z' | x_t), by as many draws as are asked for.

Source: Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations (2021), arXiv 2108.01073.
"""

from __future__ import annotations

import torch

from ldm.diffusion.denoiser import along
from ldm.diffusion.sampler.base import Sampler
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, Latent


def noised(prior: Diffusion, z: Latent, t: float, random: Random) -> Latent:
    """x_t (b, c, h, w) of latents at time t of the schedule that samples."""
    schedule = prior.guided().schedule
    alpha, sigma = schedule.alpha_sigma(torch.full((len(z),), t, device=z.device))
    return along(alpha, z) * z + along(sigma, z) * random.normal("partway", tuple(z.shape[1:]))


def cleaned(
    prior: Diffusion,
    x_t: Latent,
    t: float,
    c: Context,
    random: Random,
    sampler: Sampler | None = None,
    steps: int | None = None,
) -> Latent:
    """A latent (b, c, h, w) of x_t by the prior's guidance, and by its sampler and number of steps unless others are given."""
    denoiser = prior.guided()
    lowest = prior.lowest(denoiser.schedule)
    if t <= lowest:
        raise ValueError(f"a sample starts above t = {lowest:.4g}, the lowest time that was trained; got {t:g}")
    times = prior.grid(denoiser.schedule, steps or prior.steps, lowest)
    below = times[times < t]
    return (sampler or prior.sampler)(denoiser, x_t, torch.cat([below.new_tensor([t]), below]), c, random)
