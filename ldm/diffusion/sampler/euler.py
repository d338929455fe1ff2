"""Euler's method in t on the probability-flow ODE dx/dt = alpha' x + sigma' eps, with x and eps of the denoiser (flow
matching, arXiv 2210.02747, equation 1; stochastic interpolants, arXiv 2401.08740, section 2).

On the straight paths of `rectified` it is DDIM. On curved ones it is not: DDIM is the same with the secant (alpha_s -
alpha_t) / (s - t) in place of the slope alpha', and is exact for data at a point, which this is not. It is here because
velocity models on curved paths are sampled and compared with it; for quality take DDIM or better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class Euler(Sampler):
    order = 1

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        alpha, sigma = denoiser.schedule.alpha_sigma(t)
        d_alpha, d_sigma = denoiser.schedule.derivative(t)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha, x) * x) / along(sigma, x)
        return x_t + along((s - t) * d_alpha, x) * x + along((s - t) * d_sigma, x) * eps, None
