"""DDIM (arXiv 2010.02502, equations 12 and 16), for any schedule.

x_s = alpha_s x + sqrt(sigma_s^2 - up^2) eps + up noise with x, eps of the denoiser and
up = eta (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2). eta = 0 is a first-order solver of the
probability-flow ODE; eta = 1 is ancestral sampling with the smaller of DDPM's variances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Probability, Time


class DDIM(Sampler):
    def __init__(self, eta: Probability = 0.0):
        self.eta = eta

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha_t, x) * x) / along(sigma_t, x)
        if self.eta == 0:
            return along(alpha_s, x) * x + along(sigma_s, x) * eps, None
        fresh = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2).clamp(min=0).sqrt()
        up = self.eta * sigma_s / sigma_t * fresh
        kept = (sigma_s**2 - up**2).clamp(min=0).sqrt()
        return along(alpha_s, x) * x + along(kept, x) * eps + along(up, x) * noise(), None
