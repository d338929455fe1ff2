"""Ancestral sampling (DDPM, arXiv 2006.11239, algorithm 2 and equations 6 and 7), between any two times.

q(x_s | x_t, x) is normal with mean (alpha_ts sigma_s^2 x_t + alpha_s sigma_ts^2 x) / sigma_t^2, where alpha_ts =
alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2 (arXiv 2107.00630, equation 25). Its variance,
`large = false`, is exact for data at a point; `large = true` takes sigma_ts^2, exact for standard normal data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class DDPM(Sampler):
    """
    Arguments:
        large: take the larger of the two variances.
    """

    order, stochastic = 1, True

    def __init__(self, large: bool = False):
        self.large = large

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x = denoiser(x_t, t, c)
        ratio = alpha_t / alpha_s
        fresh = (sigma_t**2 - ratio**2 * sigma_s**2).clamp(min=0)  # of rounding
        mean = along(ratio * sigma_s**2 / sigma_t**2, x) * x_t + along(alpha_s * fresh / sigma_t**2, x) * x
        variance = fresh if self.large else fresh * sigma_s**2 / sigma_t**2
        return mean + along(variance.sqrt(), x) * noise(), None
