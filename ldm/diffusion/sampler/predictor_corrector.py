"""Predictor-corrector sampling (Song et al. 2020, algorithm 1): each step of one sampler, the predictor, is followed by a
step of another, the corrector, which stays at the same noise level, as Langevin dynamics can.

Sources:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.sampler.base import Sampler
from ldm.types import Context, Latent, Time


class PredictorCorrector(Sampler):
    """Steps of one sampler, each followed by a step of another at the same noise level.

    Arguments:
        predictor: steps from one noise level to the next.
        corrector: steps from that noise level to itself; of the samplers here, langevin can.
    """

    def __init__(self, predictor: Sampler, corrector: Sampler):
        self.predictor, self.corrector = predictor, corrector
        # The memory of the predictor is of an x_t before its correction.
        self.order = min(predictor.order, corrector.order)
        self.floor = max(predictor.floor, corrector.floor)
        self.stochastic = predictor.stochastic or corrector.stochastic

    def begin(self, times: Float[Tensor, " n"]) -> Any:
        """The memories of both samplers."""
        return self.predictor.begin(times), self.corrector.begin(times)

    def step(
        self, denoiser: Denoiser, x_t: Latent, t: Time, s: Time, c: Context, noise: Callable[[], Latent], memory: Any
    ) -> tuple[Latent, Any]:
        predictors, correctors = memory
        x_s, predictors = self.predictor.step(denoiser, x_t, t, s, c, noise, predictors)
        x_s, correctors = self.corrector.step(denoiser, x_s, s, s, c, noise, correctors)
        return x_s, (predictors, correctors)
