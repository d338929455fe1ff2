"""Diffusion posterior sampling (DPS, Chung et al. 2022).

The likelihood of y given x_t is taken to be that of y given m = E[x | x_t, c] (theorem 1), and its gradient in x_t moves m:

    E[x | x_t, y, c] = m + scale (sigma_t^2 / alpha_t) grad_{x_t} log N(y; A(m), s^2)
                     = m + scale C H^T r / s^2,        r = y - A(m),   C = (sigma_t^2 / alpha_t) dm/dx_t.

With s = sigma_y this is the paper's equation 16. It ignores that x is uncertain given x_t, so that its step is too long, without
bound, where sigma_y is small. The paper's algorithm takes a step of a length that was found by trial for 1000 steps, divided by
|r|. Here the variance of y is what it is where x_t alone is known of x,

    s^2 = sigma_y^2 + (sigma_t / alpha_t)^2 |H^T r|^2 / |r|^2.

For a prior whose density is log-concave this is the largest that it can be in the direction of r, so no step is too long; no
number of steps enters; and s is sigma_y where the noise of the measurement is all that is left. For a mask without
noise m + alpha_t (dm/dx_t) (y - A m) is left, the step of pseudo-inverse guidance (Song et al. 2023).

It is exact where nothing is known beforehand (a normal law of great variance), and to first order in the uncertainty of x given
x_t beside sigma_y^2. Elsewhere its steps are too short: what was measured is approached slowly, and met in the last steps
at most. One derivative backwards a step.

Sources:
    Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems (2022), arXiv 2209.14687
    Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems (2023), openreview 9_gsMA8MRKQ
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.posterior.base import Measurement, Posterior, tweedie
from ldm.types import Context, Latent, Time


class DPS(Posterior):
    """The mean moved along the gradient of the measurement's likelihood.

    Arguments:
        denoiser: the denoiser, perhaps guided; the prior gives it.
        measurement: what was measured; the task gives it.
        scale: how far; 0 is the denoiser itself.
    """

    neutral: ClassVar = {"scale": 0.0}

    def __init__(self, denoiser: Denoiser, measurement: Measurement, scale: NonNegativeFloat = 1.0):
        super().__init__(denoiser, measurement)
        self.scale = scale

    @property
    def silent(self) -> bool:
        return self.scale == 0 or super().silent

    def given(self, denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> Latent:
        x, covariance = tweedie(denoiser, x_t, t, c)
        measured, tangent = self.measurement, self.measurement.operator.at(x)
        alpha, sigma = self.schedule.alpha_sigma(t)
        r = measured.y - tangent.value
        back = tangent.adjoint(r)
        # scale / s^2, with all lengths times alpha_t: finite at both ends of the schedule.
        left, seen = _square(r), _square(back)
        variance = (alpha * measured.noise) ** 2 * left + sigma**2 * seen
        gain = torch.where(variance > 0, self.scale * alpha**2 * left / torch.where(variance > 0, variance, 1), 0)
        return x + along(gain, x) * covariance(back)


def _square(v: Tensor) -> Time:
    """|v|^2 of each row, (b,)."""
    return v.square().flatten(1).sum(1)
