"""DDIM (Song et al. 2020, equations 12 and 16), for any schedule.

A step is x_s = alpha_s x + sqrt(sigma_s^2 - up^2) eps + up z. Here x = E[x | x_t], eps = (x_t - alpha_t x) / sigma_t, z is
new noise, and up = eta sigma_s sqrt(1 - exp(-2 h)) with exp(-h) = alpha_t sigma_s / (alpha_s sigma_t).

With eta = 0 it is a first-order solver of the probability-flow ODE. It is then the same as Euler's method for x_t / alpha
in the variable sigma / alpha (EulerDiscreteScheduler of diffusers), and on straight paths the same as Euler's method in t
(FlowMatchEulerDiscreteScheduler). With eta = 1 it is ancestral sampling with the smaller of the two variances of DDPM, and
the same as the ancestral Euler method of Katherine Crowson's k-diffusion.

Sources:
    Song et al., Denoising Diffusion Implicit Models (2020), arXiv 2010.02502
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Probability, Time


class DDIM(Sampler):
    """DDIM: a step to the predicted x and eps of the new time, with a share of new noise.

    Arguments:
        eta: the share of the noise of ancestral sampling that is added on the way; 0 solves the ODE.
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
