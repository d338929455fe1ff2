"""UniPC of order 2 with B(h) = exp(h) - 1 (Zhao et al. 2023, section 3), for data prediction.

The predictor is DPM-Solver++ with two points. Once the denoiser has been evaluated at the end of a step, the corrector
repeats that step with this evaluation as an additional point. It costs no further evaluation, since the denoiser is not
evaluated again at the corrected x_t. With three points the corrector is the exact integral of the parabola through them;
at the first step there are two points, and it is the trapezoid rule. So UniPC-2 is of third order.

Sources:
    Zhao et al., UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models (2023),
        arXiv 2302.04867
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
    """UniPC-2: DPM-Solver++ with two points as the predictor, and a corrector that costs no evaluation."""

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
        """The corrected end of the step `last` from x_t, given E[x | x_.] at its start, m, and at its end, x, and the slope
        to the point before it, if any."""
        rise = x - m  # the slope from the start, u = 0, to the end, u = 1
        more = last.second(rise) if slope is None else last.third((torch.ones_like(last.keep), rise), slope)
        # A step from alpha = 0 is infinitely long in log SNR; there, only the first order is defined.
        return torch.where(along(last.h, x).isfinite(), last.first(x_t, m) + more, predicted)
