"""Laws of the training time: which noise levels the network sees how often.

A law maps u, uniform in [0, 1) and stratified over the global batch by the caller, to t, by the inverse of its
distribution function; so stratification carries over to any law, and the density with which a law visits log-SNR is
1 / |dlog_snr/du|. A law of noise levels rather than of times asks the schedule for their times.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat

from ldm.constructed import Constructed
from ldm.diffusion.schedule import Schedule
from ldm.types import Probability, Time


class TimeLaw(Constructed, ABC):
    """u -> t; a new one writes `_quantile`.

    tail: the share of draws at low noise that are too few to learn from.
    """

    tail: float = 0.0

    @abstractmethod
    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        """The t below which a draw falls with probability u, 0 < u < 1; increasing and differentiable."""

    def __call__(self, u: Time, schedule: Schedule) -> Time:
        """t (b,) of u (b,) in [0, 1], within [1e-5, 1): log-SNR is finite there under every schedule."""
        t = self._quantile(u.double().clamp(2**-25, 1 - 2**-25), schedule)
        return t.clamp(1e-5, 1 - 2**-24).to(u.dtype)

    def lowest(self, schedule: Schedule) -> float:
        """The time where training ends: below it are `tail` of the draws."""
        return self._quantile(torch.tensor([self.tail], dtype=torch.float64), schedule).item()

    def density(self, u: Time, schedule: Schedule) -> Time:
        """The density of log-SNR under this law, (b,), at its value at u; infinite where draws are clamped."""
        u = u.double()
        slope = torch.func.jvp(lambda u: schedule.log_snr(self(u, schedule)), (u,), (torch.ones_like(u),))[1]
        return 1 / slope.abs()


FOUR_DEVIATIONS = 0.5 * math.erfc(4 / math.sqrt(2))
"""The share of a normal law that lies further than four deviations below its mean: one draw in 30,000."""


class Uniform(TimeLaw):
    """t uniform in [minimum, 1]; the minimum keeps log-SNR finite (a table of 1000 steps begins at 1/1000).

    Arguments:
        minimum: the lowest time.
    """

    def __init__(self, minimum: Probability = 1e-3):
        self.minimum = minimum

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return self.minimum + (1 - self.minimum) * u


class LogitNormal(TimeLaw):
    """logit t normal (Stable Diffusion 3, arXiv 2403.03206, section 3.1).

    Arguments:
        mean, std: of logit t.
    """

    tail = FOUR_DEVIATIONS

    def __init__(self, mean: float = 0.0, std: PositiveFloat = 1.0):
        self.mean, self.std = mean, std

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


class LogNormal(TimeLaw):
    """log(sigma / alpha) normal (EDM, arXiv 2206.00364, table 1), whatever the schedule: draws beyond its ends fall on
    them. The paper's mean is for data of deviation 0.5; for latents, of deviation 1, it is -1.2 + log 2.

    Arguments:
        mean, std: of log(sigma / alpha).
    """

    tail = FOUR_DEVIATIONS

    def __init__(self, mean: float = -1.2, std: PositiveFloat = 1.2):
        self.mean, self.std = mean, std

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return schedule.time(-2 * (self.mean + self.std * torch.special.ndtri(u)))


class ModeShifted(TimeLaw):
    """t = 1 - v - s (cos(pi v / 2)^2 - 1 + v), v = 1 - u (Stable Diffusion 3, arXiv 2403.03206, equation 20): the middle
    times more often for s = `scale` > 0, the ends for s < 0; 0 is uniform.

    Arguments:
        scale: s, how much the middle times are preferred.
    """

    def __init__(self, scale: Annotated[float, Field(ge=-1, le=1.75)] = 1.29):
        self.scale = scale

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return u - self.scale * (torch.sin(torch.pi / 2 * u) ** 2 - u)
