"""DiffPIR: diffusion for plug-and-play image restoration (Zhu et al. 2023, equation 13).

The mean m = E[x | x_t, c] is a clean image that the measurement then corrects, as far as it is uncertain at this noise level:

    E[x | x_t, y, c] = argmin_x |y - A(x)|^2 / sigma_y^2 + lambda (alpha_t / sigma_t)^2 |x - m|^2,

which is the formula at the head of ldm.diffusion.posterior.base with C = sigma_t^2 / (lambda alpha_t^2). It needs no
derivative of the network. It is exact for data of which nothing is known beforehand (a normal law of great variance) with
lambda = 1. What is not measured moves only through x_t, in the next steps: so it wants many of them, and samplers that add
noise. The system is solved by conjugate gradients: for masks, averages of squares and their like one is exact; where A is not
linear it is linearised at m, and a few serve.

Sources:
    Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration (2023), arXiv 2305.08995
"""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.posterior.base import Measurement, Posterior
from ldm.diffusion.posterior.conjugate import conjugate_gradients
from ldm.types import Context, Latent, Time


class DiffPIR(Posterior):
    """The mean corrected by the measurement as far as the noise level leaves it uncertain.

    Arguments:
        denoiser: the denoiser, perhaps guided; the prior gives it.
        measurement: what was measured; the task gives it.
        strength: lambda, by which the denoiser counts beside the measurement.
        iterations: conjugate gradients; of masks and averages of squares one is exact.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        strength: PositiveFloat = 1.0,
        iterations: PositiveInt = 3,
    ):
        super().__init__(denoiser, measurement)
        self.strength, self.iterations = strength, iterations

    def given(self, denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> Latent:
        x = denoiser(x_t, t, c)
        measured, tangent = self.measurement, self.measurement.operator.at(x)
        alpha, sigma = self.schedule.alpha_sigma(t)
        # C = share / (1 - share); the equation times 1 - share is finite at both ends of the schedule.
        share = sigma**2 / (sigma**2 + self.strength * alpha**2)

        def spread(v: Tensor) -> Tensor:
            noise = along((1 - share) * measured.noise**2, v) * v
            return noise + along(share, v) * tangent.forward(tangent.adjoint(v))

        left = measured.y - tangent.value
        return x + tangent.adjoint(conjugate_gradients(spread, along(share, left) * left, self.iterations))
