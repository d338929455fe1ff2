"""Learning-rate schedules: a factor of the optimiser's learning rate as a function of the update, and so without state.

Sources:
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts (2016), arXiv 1608.03983
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from pydantic import NonNegativeInt

from ldm.types import Probability


class Rate(ABC):
    """A linear warm-up, followed by a decay from 1 to `final` with a given shape. A new one writes `shape`.

    Arguments:
        warmup: number of updates in which the factor rises to 1.
        final: the factor at the end.
    """

    def __init__(self, warmup: NonNegativeInt = 0, final: Probability = 0.0):
        self.warmup, self.final = warmup, final

    @abstractmethod
    def shape(self, done: float) -> float:
        """The shape of the decay: a function from 1 at done = 0 to 0 at done = 1."""

    def __call__(self, step: float | int, steps: int) -> float:
        """The factor for update `step`, counted from 0, of `steps`; with a budget `step` is a position (ldm.stage.budget)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.final + (1 - self.final) * self.shape(min(done, 1.0))


class Constant(Rate):
    """No decay: the factor is 1 after the warm-up."""

    def shape(self, done: float) -> float:
        return 1.0


class Linear(Rate):
    """A linear decay."""

    def shape(self, done: float) -> float:
        return 1 - done


class Cosine(Rate):
    """A decay along half a period of a cosine (Loshchilov and Hutter 2016, equation 5, without restarts)."""

    def shape(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))
