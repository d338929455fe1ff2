"""DDIM (arXiv 2010.02502, equations 12 and 16), for any schedule.

x_s = alpha_s x + sqrt(sigma_s^2 - up^2) eps + up z with x, eps of the denoiser and up = eta sigma_s sqrt(1 - exp(-2
h)), where exp(-h) = alpha_t sigma_s / (alpha_s sigma_t).

eta = 0 is a first-order solver of the probability-flow ODE. It is Euler's method in sigma / alpha for x / alpha
(diffusers' EulerDiscrete), and Euler's in t on straight paths (FlowMatchEuler). eta = 1 is ancestral sampling with the
smaller of DDPM's variances, and Euler's ancestral method (Katherine Crowson's k-diffusion): one rule with three names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Probability, Time


class DDIM(Sampler):
    """
    Arguments:
        eta: share of the noise of ancestral sampling that is added on the way; 0 is the ODE.
    """

    order = 1

    def __init__(self, eta: Probability = 0.0):
        self.eta, self.stochastic = eta, eta > 0

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule.alpha_sigma(t), denoiser.schedule.alpha_sigma(s)
        x = denoiser(x_t, t, c)
        eps = (x_t - along(alpha_t, x) * x) / along(sigma_t, x)
        if not self.stochastic:
            return along(alpha_s, x) * x + along(sigma_s, x) * eps, None
        fall = alpha_t * sigma_s / (alpha_s * sigma_t)
        up = self.eta * sigma_s * (1 - fall**2).sqrt()
        kept = (sigma_s**2 - up**2).sqrt()
        return along(alpha_s, x) * x + along(kept, x) * eps + along(up, x) * noise(), None
