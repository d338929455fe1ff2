"""Euler's method in t on the probability-flow ODE dx_t/dt = alpha' x + sigma' eps, with x and eps of the denoiser (flow
matching, Lipman et al. 2022, equation 1; stochastic interpolants, Ma et al. 2024, section 2).

On the straight paths of `rectified` it is the same as DDIM. On curved paths it is not: there DDIM has the difference
quotient (alpha_s - alpha_t) / (s - t) where this method has the derivative alpha', and DDIM is exact for data that are a
single point, which this method is not. It is here because velocity models on curved paths are usually sampled, and
compared, with it. For the best samples take DDIM or a method of higher order.

Sources:
    Lipman et al., Flow Matching for Generative Modeling (2022), arXiv 2210.02747
    Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers
        (2024), arXiv 2401.08740
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class Euler(Sampler):
    """Euler's method in t: x_s = x_t + (s - t) (alpha' x + sigma' eps)."""

    order = 1

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        alpha, sigma = denoiser.schedule.alpha_sigma(t)
        d_alpha, d_sigma = denoiser.schedule.derivative(t)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha, x) * x) / along(sigma, x)
        return x_t + along((s - t) * d_alpha, x) * x + along((s - t) * d_sigma, x) * eps, None
