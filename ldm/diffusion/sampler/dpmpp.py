"""DPM-Solver++, multistep (arXiv 2211.01095, algorithm 2 and SDE-DPM-Solver++): the exponential integrator with E[x |
x_t] interpolated in log-SNR through this evaluation and those of the last steps, on the ODE or on the reverse SDE.

Two points are the customary '2M', three '3M'. The first step has one point and is DDIM. A start of first order leaves an
error of second order, so that is the order of both.

All points lie before the step, so a polynomial through them is extrapolated. Its exact integral tends, in long steps, to
its value at their end, where a parabola is far off; the reference code, which weighs the curvature by half, is so too.
The customary second order takes the slope at the middle of the step, psi_1 / 2 in place of psi_2. Three points do the same
here, slope and half of the curvature (psi_1 / 6): the order is the same, and few steps are as good as with two points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.exponential import Step
from ldm.types import Context, Latent, Time


class DPMpp(Sampler):
    """
    Arguments:
        points: how many evaluations the polynomial goes through.
        sde: solve the reverse SDE.
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
