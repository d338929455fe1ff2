"""Laws of the training time: which noise levels the network sees how often.

A law maps u, uniform in [0, 1) and stratified over the global batch by the caller, to t, by the inverse of its
distribution function; so stratification carries over to any law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import PositiveFloat

from ldm.types import Probability, Time


class TimeLaw(ABC):
    @abstractmethod
    def __call__(self, u: Time) -> Time:
        """t (b,) in (0, 1] of u (b,) in [0, 1)."""


class Uniform(TimeLaw):
    """t uniform in [minimum, 1]; the minimum keeps log-SNR finite (a table of 1000 steps begins at 1/1000)."""

    def __init__(self, minimum: Probability = 1e-3):
        self.minimum = minimum

    def __call__(self, u: Time) -> Time:
        return (self.minimum + (1 - self.minimum) * u).clamp(max=1)


class LogitNormal(TimeLaw):
    """logit t normal (Stable Diffusion 3, arXiv 2403.03206, section 3.1)."""

    def __init__(self, mean: float = 0.0, std: PositiveFloat = 1.0):
        self.mean, self.std = mean, std

    def __call__(self, u: Time) -> Time:
        normal = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
        return torch.sigmoid(self.mean + self.std * normal).clamp(1e-4, 1 - 1e-4).to(u.dtype)
