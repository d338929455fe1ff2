"""UniPC of order 2 with B(h) = exp(h) - 1 (arXiv 2302.04867, section 3), for data prediction.

The predictor is DPM-Solver++'s with two points. The corrector redoes the last step once the denoiser has answered at
its end, with that answer as one point more: it costs no evaluation, which is not repeated at the corrected x. With
three points it is the exact integral of the parabola through them; the first one has two, by the trapezoid. So UniPC-2
is of order 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.exponential import Step
from ldm.types import Context, Latent, Time


class UniPC(Sampler):
    order = 3

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        step = Step.between(denoiser.schedule, t, s)
        x = denoiser(x_t, t, c)
        slope = None
        if memory is not None:
            last, _, m, _ = memory
            x_t = self._corrected(x_t, x, *memory)
            slope = step.slope(last.before, x, m)
        x_s = step.first(x_t, x)
        if slope is not None:
            x_s = x_s + step.second(slope[1])
        return x_s, (step, x_t, x, slope)

    @staticmethod
    def _corrected(predicted: Latent, x: Latent, last: Step, x_t: Latent, m: Latent, slope: Any) -> Latent:
        """The end of the step `last` from x_t, given m at its start, x at its end, and a slope from before."""
        rise = x - m  # the slope to the end, u = 1
        more = last.second(rise) if slope is None else last.third((torch.ones_like(last.keep), rise), slope)
        # From alpha = 0 the step is infinitely long in log-SNR, and only its first order means anything.
        return torch.where(along(last.h, x).isfinite(), last.first(x_t, m) + more, predicted)
