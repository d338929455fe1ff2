"""Predictor-corrector sampling (arXiv 2011.13456, algorithm 1): each step of one sampler is followed by one of another
that stays at the same level of noise, as Langevin dynamics does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class PredictorCorrector(Sampler):
    """
    Arguments:
        predictor: goes from level to level.
        corrector: stays at the level that was reached, as langevin does.
    """

    def __init__(self, predictor: Sampler, corrector: Sampler):
        self.predictor, self.corrector = predictor, corrector
        self.order = min(
            predictor.order, corrector.order
        )  # what a predictor remembers is of an x before its correction
        self.floor = max(predictor.floor, corrector.floor)
        self.stochastic = predictor.stochastic or corrector.stochastic

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        return self.predictor.begin(times), self.corrector.begin(times)

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        predictors, correctors = memory
        x_s, predictors = self.predictor.step(denoiser, x_t, t, s, c, noise, predictors)
        x_s, correctors = self.corrector.step(denoiser, x_s, s, s, c, noise, correctors)
        return x_s, (predictors, correctors)
