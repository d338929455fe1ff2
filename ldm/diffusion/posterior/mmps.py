"""Moment matching posterior sampling (MMPS, Rozet et al. 2024, section 4.2 and appendix B).

    E[x | x_t, y, c] = m + C H^T (sigma_y^2 + H C H^T)^{-1} (y - A(m)),    C = (sigma_t^2 / alpha_t) dm/dx_t,

the formula at the head of ldm.diffusion.posterior.base with the true covariance of x given x_t. It is exact where x is
normal and A is linear. The system is solved by a few conjugate gradients, each of which costs one derivative backwards
through the network. One is a good guess, a few more come nearer to the solution.

What makes it fail: a law of x given x_t that has several modes at high noise, of which it takes the mean and the spread; and a
network whose derivative is no covariance, because it has been trained too little.

Sources:
    Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization (2024), arXiv 2405.13712
"""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.posterior.base import Measurement, Posterior, tweedie
from ldm.diffusion.posterior.conjugate import conjugate_gradients
from ldm.types import Context, Latent, Time


class MMPS(Posterior):
    """The mean given a measurement, with the covariance of x given x_t that the denoiser's derivative says.

    Arguments:
        denoiser: the denoiser, perhaps guided; the prior gives it.
        measurement: what was measured; the task gives it.
        iterations: conjugate gradients, each of one derivative backwards through the network.
    """

    def __init__(self, denoiser: Denoiser, measurement: Measurement, iterations: PositiveInt = 1):
        super().__init__(denoiser, measurement)
        self.iterations = iterations

    def given(self, denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> Latent:
        x, covariance = tweedie(denoiser, x_t, t, c)
        measured, tangent = self.measurement, self.measurement.operator.at(x)

        def spread(v: Tensor) -> Tensor:
            return measured.noise**2 * v + tangent.forward(covariance(tangent.adjoint(v)))

        u = conjugate_gradients(spread, measured.y - tangent.value, self.iterations, measured.noise**2)
        return x + covariance(tangent.adjoint(u))
