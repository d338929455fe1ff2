"""Ancestral sampling (DDPM, Ho et al. 2020, algorithm 2 and equations 6 and 7), between any two times.

q(x_s | x_t, x) is normal with mean (alpha_ts sigma_s^2 x_t + alpha_s sigma_ts^2 x) / sigma_t^2, where alpha_ts =
alpha_t / alpha_s and sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2 (Kingma et al. 2021, equation 25). Its variance is
sigma_ts^2 sigma_s^2 / sigma_t^2. This variance, taken with `large=false`, is exact for data that are a single point. With
`large=true` the variance is sigma_ts^2, which is exact for standard normal data.

Sources:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Kingma et al., Variational Diffusion Models (2021), arXiv 2107.00630
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class DDPM(Sampler):
    """Ancestral sampling: x_s is drawn from q(x_s | x_t, x) with x = E[x | x_t].

    Arguments:
        large: whether to take the larger of the two variances.
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
        fresh = (sigma_t**2 - ratio**2 * sigma_s**2).clamp(min=0)  # rounding can make it negative
        mean = along(ratio * sigma_s**2 / sigma_t**2, x) * x_t + along(alpha_s * fresh / sigma_t**2, x) * x
        variance = fresh if self.large else fresh * sigma_s**2 / sigma_t**2
        return mean + along(variance.sqrt(), x) * noise(), None
