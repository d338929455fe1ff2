"""The probability-flow ODE solved to a tolerance (arXiv 2011.13456, section 4.3), by Dormand and Prince's pair with
steps of its own for every image, so that an image does not depend on its batch.

Between two times of the grid it takes as many steps as it needs, so the grid says where it stops to look, and no more:
a custom grid of 1, a small time and 0 leaves everything to the tolerance. Evaluations are counted in `memory` and
logged. After each step it reads the errors on the host; every other sampler runs ahead of its device.
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
    """What one step of an adaptive solver hands to the next, for each image (b,)."""

    step: Time  # of phi, to try next
    evaluations: Time  # of the denoiser, by each image


class Adaptive(Sampler):
    """
    Arguments:
        tolerance: of a step's error, absolute and relative.
    """

    order = 1  # of the step to the data, which every sampler makes; elsewhere its error is the tolerance's

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
