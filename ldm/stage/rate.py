"""Learning-rate schedules: a factor of the optimiser's rate as a function of the update, and so without state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from pydantic import NonNegativeInt

from ldm.types import Probability


class Rate(ABC):
    """Linear warm-up over `warmup` updates, then `shape` of the share that is done of the rest, down to `final`.

    Arguments:
        warmup: updates in which the factor rises to 1.
        final: the factor at the end.
    """

    def __init__(self, warmup: NonNegativeInt = 0, final: Probability = 0.0):
        self.warmup, self.final = warmup, final

    @abstractmethod
    def shape(self, done: float) -> float:
        """From 1 at done = 0 to 0 at done = 1."""

    def __call__(self, step: int, steps: int) -> float:
        """The factor for update `step` (from 0) of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.final + (1 - self.final) * self.shape(min(done, 1.0))


class Constant(Rate):
    """1 throughout."""

    def shape(self, done: float) -> float:
        return 1.0


class Linear(Rate):
    """1 - done: down to 0 (to `final`) along a line."""

    def shape(self, done: float) -> float:
        return 1 - done


class Cosine(Rate):
    """arXiv 1608.03983, equation 5, without restarts."""

    def shape(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))
