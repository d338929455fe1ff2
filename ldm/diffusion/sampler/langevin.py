"""Annealed Langevin dynamics (arXiv 1907.05600, algorithm 1), for any schedule.

At level s, `corrections` times: x += step score / 2 + sqrt(step) z with score = (alpha_s E[x | x_s] - x_s) / sigma_s^2
and step = (2 snr sigma_s)^2. That is the step of arXiv 2011.13456, algorithms 4 and 5, with the norms of score and
noise replaced by what they are on average, so that an image does not depend on its batch; sigma cancels, and alpha = 0
is no exception.

Between levels x_t / sqrt(alpha^2 + sigma^2) is kept: at high noise what is noise stays noise of the right size, at low
noise it is x / alpha, as in the paper. With s = t it is the corrector of `predictor_corrector`. Its step leaves an
error, `floor`; and the levels have to be close (many steps), as nothing but the dynamics takes noise away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class Langevin(Sampler):
    """
    Arguments:
        snr: of a step's signal to its noise, which says how long it is.
        corrections: steps at each level.
    """

    order, stochastic = 1, True

    def __init__(self, snr: PositiveFloat = 0.16, corrections: PositiveInt = 1):
        # Langevin's own error of the variance is at most a quarter of the step in units of sigma^2 (see the tests).
        self.snr, self.corrections, self.floor = snr, corrections, snr**2

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        (alpha_t, sigma_t), (alpha, sigma) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x_s = along(((alpha**2 + sigma**2) / (alpha_t**2 + sigma_t**2)).sqrt(), x_t) * x_t
        for _ in range(self.corrections):
            drift = along(alpha, x_s) * denoiser(x_s, s, c) - x_s
            x_s = x_s + 2 * self.snr**2 * drift + 2 * self.snr * along(sigma, x_s) * noise()
        return x_s, None
