"""Annealed Langevin dynamics (Song and Ermon 2019, algorithm 1), for any schedule.

At each noise level s the update

    x <- x + (step / 2) score + sqrt(step) z,   score = (alpha_s E[x | x_s] - x_s) / sigma_s^2,   step = (2 snr sigma_s)^2

is made `corrections` times, with standard normal z. The step size is that of Song et al. 2020, algorithms 4 and 5, except
that the norms of score and noise are replaced by their expectations, so that an image does not depend on the batch that it
is sampled in. sigma_s cancels from the update, which therefore is regular at alpha = 0, too.

From one level to the next x_t / sqrt(alpha^2 + sigma^2) is kept. So pure noise stays noise of the right size at high noise
levels, and at low noise levels x_t / alpha is kept, as in the paper. With s = t the step stays at its level and is the
corrector of `predictor_corrector`. The finite step size leaves an error, `floor`. The levels have to be close to each other
(many steps), because only the dynamics itself removes noise.

Sources:
    Song and Ermon, Generative Modeling by Estimating Gradients of the Data Distribution (2019), arXiv 1907.05600
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class Langevin(Sampler):
    """Annealed Langevin dynamics: a few steps of the Langevin equation at each noise level.

    Arguments:
        snr: ratio of signal to noise in one update, which sets the step size.
        corrections: updates at each noise level.
    """

    order, stochastic = 1, True

    def __init__(self, snr: PositiveFloat = 0.16, corrections: PositiveInt = 1):
        # The finite step changes the variance by at most a quarter of the step, in units of sigma^2 (see the tests).
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
