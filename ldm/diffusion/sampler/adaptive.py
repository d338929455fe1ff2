"""The probability-flow ODE solved to a tolerance (Song et al. 2020, section 4.3), by the method of Dormand and Prince with
a step size of its own for every image, so that an image does not depend on the batch that it is sampled in.

Between two times of the grid the solver takes as many steps as it needs. The grid only says at which times it has to stop:
a custom grid of 1, a small time and 0 leaves everything to the tolerance. Evaluations of the denoiser are counted and
logged. After each step the host has to read the errors from the device; no other sampler waits for its device.

Sources:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveFloat
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.flow import angle, length, velocity
from ldm.diffusion.sampler.base import Sampler
from ldm.ode import DormandPrince
from ldm.types import Context, Latent, Time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What one step of the adaptive sampler hands to the next, for each image, (b,)."""

    step: Time  # the step size in phi to try next
    evaluations: Time  # evaluations of the denoiser so far


class Adaptive(Sampler):
    """The probability-flow ODE solved to a tolerance.

    Arguments:
        tolerance: of the error of a step, absolute and relative.
    """

    order = 1  # the order of the last step, to t = 0; the error of all others is that of the tolerance

    def __init__(self, tolerance: PositiveFloat = 1e-4):
        self.solver, self.floor = DormandPrince(tolerance), 10 * tolerance

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        def slope(phi: Tensor, y: Tensor) -> Tensor:
            return velocity(denoiser, y.view_as(x_t), phi, c).flatten(1)

        schedule = denoiser.schedule
        start, end = angle(schedule, t), angle(schedule, s)
        y = (x_t / along(length(schedule, t), x_t)).flatten(1)
        found = self.solver(slope, y, start, end, None if memory is None else memory.step)
        count = found.evaluations if memory is None else memory.evaluations + found.evaluations
        log.debug("%.0f to %.0f evaluations an image so far", count.min(), count.max())
        x_s = along(length(schedule, s), x_t) * found.y.view_as(x_t)
        return x_s, Progress(found.step, count)
