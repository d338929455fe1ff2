"""Laws of times: how often training visits each noise level.

A law maps a uniform number u in [0, 1) to a time t by the inverse of its distribution function. The caller stratifies u
over the global batch, and so the times of every law are stratified, too. The density with which a law visits a log SNR is
1 / |d log SNR / du|. A law that is given in noise levels rather than in times asks the schedule for the times of these
levels. What a law does to the loss, and how it works together with the weighting, is in ldm.diffusion.weighting.

Sources:
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (2024), arXiv 2403.03206
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
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
    """A law of training times. A new one writes `_quantile`.

    Attributes:
        tail: the share of draws at the lowest noise levels that is too small for the network to learn anything there.
    """

    tail: float = 0.0

    @abstractmethod
    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        """The quantile function: the time below which a draw lies with probability u, 0 < u < 1; it increases with u and is
        differentiable."""

    def __call__(self, u: Time, schedule: Schedule) -> Time:
        """Times t (b,) in [1e-5, 1), where log SNR is finite on every schedule, of uniform numbers u (b,) in [0, 1]."""
        t = self._quantile(u.double().clamp(2**-25, 1 - 2**-25), schedule)
        return t.clamp(1e-5, 1 - 2**-24).to(u.dtype)

    def lowest(self, schedule: Schedule) -> float:
        """The lowest time that counts as trained: the share `tail` of all draws lies below it."""
        return self._quantile(torch.tensor([self.tail], dtype=torch.float64), schedule).item()

    def density(self, u: Time, schedule: Schedule) -> Time:
        """The density of log SNR under this law, (b,), at the log SNR that belongs to u; inf where times are clamped."""
        u = u.double()
        slope = torch.func.jvp(lambda u: schedule.log_snr(self(u, schedule)), (u,), (torch.ones_like(u),))[1]
        return 1 / slope.abs()


FOUR_DEVIATIONS = 0.5 * math.erfc(4 / math.sqrt(2))
"""The share of a normal distribution that lies more than four standard deviations below its mean: one draw in 30,000."""


class Uniform(TimeLaw):
    """t uniform in [minimum, 1]. The minimum keeps log SNR finite; a table of 1000 steps begins at 1 / 1000.

    Arguments:
        minimum: the lowest time.
    """

    def __init__(self, minimum: Probability = 1e-3):
        self.minimum = minimum

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return self.minimum + (1 - self.minimum) * u


class LogitNormal(TimeLaw):
    """logit(t) normally distributed (Stable Diffusion 3, Esser et al. 2024, section 3.1).

    Arguments:
        mean, std: mean and standard deviation of logit(t).
    """

    tail = FOUR_DEVIATIONS

    def __init__(self, mean: float = 0.0, std: PositiveFloat = 1.0):
        self.mean, self.std = mean, std

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


class LogNormal(TimeLaw):
    """log(sigma / alpha) normally distributed on every schedule (EDM, Karras et al. 2022, table 1). Draws beyond the ends of
    the schedule are moved to its ends.

    The default mean is the paper's, for data of standard deviation 0.5. For latents, of standard deviation 1, the same law
    has the mean -1.2 + log 2.

    Arguments:
        mean, std: mean and standard deviation of log(sigma / alpha).
    """

    tail = FOUR_DEVIATIONS

    def __init__(self, mean: float = -1.2, std: PositiveFloat = 1.2):
        self.mean, self.std = mean, std

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return schedule.time(-2 * (self.mean + self.std * torch.special.ndtri(u)))


class ModeShifted(TimeLaw):
    """t = 1 - v - s (cos(pi v / 2)^2 - 1 + v) with v = 1 - u and s = `scale` (Stable Diffusion 3, Esser et al. 2024, equation
    20). It prefers the middle times for s > 0 and the ends for s < 0; s = 0 is uniform.

    Arguments:
        scale: s, how strongly the middle times are preferred.
    """

    def __init__(self, scale: Annotated[float, Field(ge=-1, le=1.75)] = 1.29):
        self.scale = scale

    def _quantile(self, u: Time, schedule: Schedule) -> Time:
        return u - self.scale * (torch.sin(torch.pi / 2 * u) ** 2 - u)
