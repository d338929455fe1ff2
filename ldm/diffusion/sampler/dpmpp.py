"""DPM-Solver++, multistep (Lu et al. 2022, algorithm 2 and SDE-DPM-Solver++).

It is the exponential integrator of ldm.diffusion.sampler.exponential, on the ODE or on the reverse SDE, with E[x | x_t]
approximated by a polynomial in log SNR through the present evaluation and those of the last steps.

Two points are usually called 2M, three points 3M. The first step has only one point and is DDIM. Since the error of this
single step of first order is of second order, both are methods of second order.

All points lie before or at the beginning of the step, so the polynomial is extrapolated. In long steps its exact integral
tends to its value at the end of the step, where a parabola is far from E[x | x_t]. The reference code, which takes half of
the curvature, has the same weakness. The usual second-order method takes the slope at the middle of the step instead, that
is psi_1 / 2 in place of psi_2. With three points the same is done here, and the curvature counts psi_1 / 6. The order does
not change by it, and in few steps three points are then as good as two.

Sources:
    Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (2022),
        arXiv 2211.01095
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.exponential import Step
from ldm.types import Context, Latent, Time


class DPMpp(Sampler):
    """DPM-Solver++ with two or three points.

    Arguments:
        points: the number of evaluations that the polynomial goes through.
        sde: whether to solve the reverse SDE instead of the ODE.
    """

    order = 2

    def __init__(self, points: Literal[2, 3] = 2, sde: bool = False):
        self.points, self.stochastic = points, sde

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        step = Step.between(denoiser.schedule, t, s, self.stochastic)
        x = denoiser(x_t, t, c)
        x_s = step.first(x_t, x)
        past = memory or []
        slopes = [step.slope(where, x, other) for where, other in past]
        if len(slopes) == 1:
            x_s = x_s + step.second(slopes[0][1])
        elif len(slopes) == 2:
            x_s = x_s + step.bent(*slopes)
        if self.stochastic:
            x_s = x_s + along(step.up, x) * noise()
        return x_s, [(step.before, x), *past][: self.points - 1]
