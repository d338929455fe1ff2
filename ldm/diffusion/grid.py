"""Grids: the decreasing times at which a sampler stops, from 1 (noise) to 0 (data)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.diffusion.schedule import Schedule


class Grid(ABC):
    @abstractmethod
    def __call__(self, schedule: Schedule, steps: PositiveInt) -> Float[Tensor, " times"]:
        """steps + 1 decreasing times, the last one 0, float32 on the CPU."""


class Uniform(Grid):
    """Equal steps of t from `start` to 0; 'trailing' in the words of arXiv 2305.08891, which ends at pure noise."""

    def __init__(self, start: PositiveFloat = 1.0):
        self.start = start

    def __call__(self, schedule: Schedule, steps: PositiveInt) -> Float[Tensor, " times"]:
        return torch.linspace(self.start, 0, steps + 1, dtype=torch.float64).float()
