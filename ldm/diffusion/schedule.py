"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x + sigma eps, from t = 0 (data) to t = 1 (noise).

What matters of a schedule is its log-SNR, log(alpha^2 / sigma^2), which falls with t (arXiv 2107.00630, section 3);
`time` inverts it. At t = 0 exactly there is no noise: alpha = 1, sigma = 0, log-SNR infinite. Arithmetic is float64
on the CPU and for tables, float32 at least elsewhere, never under autocast's half precision.

A variance-preserving schedule (alpha^2 + sigma^2 = 1) is its log-SNR l alone: alpha^2 = sigmoid(l),
sigma^2 = sigmoid(-l).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.types import Time


class Schedule(nn.Module, ABC):
    """alpha(t), sigma(t) with t (b,) in [0, 1]; all return float (b,)."""

    @abstractmethod
    def log_snr(self, t: Time) -> Time:
        """log(alpha^2 / sigma^2), decreasing in t."""

    @abstractmethod
    def time(self, log_snr: Time) -> Time:
        """The t of a log-SNR: the inverse of `log_snr`."""

    @abstractmethod
    def _alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        """alpha and sigma for t > 0."""

    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self._alpha_sigma(t)
        clean = t <= 0
        return torch.where(clean, torch.ones_like(alpha), alpha), torch.where(clean, torch.zeros_like(sigma), sigma)

    def derivative(self, t: Time) -> tuple[Time, Time]:
        """(alpha'(t), sigma'(t))."""
        return torch.func.jvp(self._alpha_sigma, (t,), (torch.ones_like(t),))[1]


def _preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


class Table(Schedule, ABC):
    """A table of N betas (DDPM, arXiv 2006.11239): alpha^2 at t = i/N is prod_{j<=i} (1 - beta_j), exact there;
    between, log-SNR is linear in t."""

    def __init__(self, betas: Tensor):
        super().__init__()
        log_alpha2 = torch.log1p(-betas.double()).cumsum(0)
        log_snr = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
        # One more knot at t = 0 goes on with the first slope, so that times below 1/N have a finite log-SNR.
        self.register_buffer("knots", torch.cat([2 * log_snr[:1] - log_snr[1:2], log_snr]), persistent=False)
        self.steps = len(betas)

    def log_snr(self, t: Time) -> Time:
        position = (t.double() * self.steps).clamp(0, self.steps)
        low = position.floor().long().clamp(max=self.steps - 1)
        left, right = self.knots[low], self.knots[low + 1]
        return (left + (position - low) * (right - left)).to(t.dtype)

    def time(self, log_snr: Time) -> Time:
        value = log_snr.double().clamp(self.knots[-1], self.knots[0])
        high = torch.searchsorted(-self.knots, -value).clamp(1, self.steps)
        left, right = self.knots[high - 1], self.knots[high]
        return ((high - 1 + (value - left) / (right - left)) / self.steps).to(log_snr.dtype)

    def _alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        return _preserving(self.log_snr(t))


class Linear(Table):
    """betas linear from `start` to `end` (DDPM, arXiv 2006.11239, section 4)."""

    def __init__(self, start: PositiveFloat = 1e-4, end: PositiveFloat = 0.02, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start, end, steps, dtype=torch.float64))


class ScaledLinear(Table):
    """square roots of betas linear (latent diffusion, arXiv 2112.10752; Stable Diffusion's constants)."""

    def __init__(self, start: PositiveFloat = 0.00085, end: PositiveFloat = 0.012, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)


class Cosine(Schedule):
    """alpha = cos(pi t' / 2), sigma = sin(pi t' / 2) (arXiv 2102.09672), with t' a stretch of t on which log-SNR stays
    within [-bound, bound] (arXiv 2301.11093, appendix B)."""

    def __init__(self, bound: PositiveFloat = 15.0):
        super().__init__()
        self.low = math.atan(math.exp(-bound / 2))
        self.high = math.pi / 2 - self.low

    def log_snr(self, t: Time) -> Time:
        return -2 * torch.tan(self.low + (self.high - self.low) * t).log()

    def time(self, log_snr: Time) -> Time:
        return (torch.atan(torch.exp(-log_snr / 2)) - self.low) / (self.high - self.low)

    def _alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        return _preserving(self.log_snr(t))


class Rectified(Schedule):
    """alpha = 1 - t, sigma = t: the straight path of rectified flow (arXiv 2209.03003)."""

    def log_snr(self, t: Time) -> Time:
        return 2 * (torch.log1p(-t) - t.log())

    def time(self, log_snr: Time) -> Time:
        return torch.sigmoid(-log_snr / 2)

    def _alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        return 1 - t, t
