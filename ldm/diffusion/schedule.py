"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x + sigma eps, from t = 0 (data) to t = 1 (noise).

(alpha, sigma) is a point of the quarter plane, and two independent choices make it. Its direction is the log-SNR,
log(alpha^2 / sigma^2), which falls with t and is all that matters in continuous time (arXiv 2107.00630, section 3): a
schedule is a curve of directions. Its length is only a scale of x_t, and a path says which: the `circle`
alpha^2 + sigma^2 = 1 preserves variance, the `line` alpha + sigma = 1 is the straight one of flow matching, and on the
`upright` alpha = 1 the variance explodes. A wrapper changes the curve and keeps the path.

At t = 0 exactly there is no noise: alpha = 1, sigma = 0, log-SNR infinite, whatever the limit at t > 0. Arithmetic is
float64, results have the type of t, and autocast plays no part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.types import Time

Path: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The length of (alpha, sigma) that is 1 on the path, homogeneous of degree 1."""


def circle(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Variance preserving (arXiv 2006.11239)."""
    return (alpha.square() + sigma.square()).sqrt()


def line(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Straight (arXiv 2209.03003)."""
    return alpha + sigma


def upright(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Variance exploding (arXiv 2011.13456; 2206.00364)."""
    return alpha


class Schedule(Constructed, nn.Module, ABC):
    """alpha(t), sigma(t) with t (b,) in [0, 1]; all return float (b,). A new one writes `_direction` and `_time`."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @abstractmethod
    def _direction(self, t: Time) -> tuple[Time, Time]:
        """(alpha, sigma) up to a common factor for t > 0; differentiable, at t = 1 too."""

    @abstractmethod
    def _time(self, log_snr: Time) -> Time:
        """The t of a log-SNR; what is below 0 or above 1 is a log-SNR that the schedule does not reach."""

    def _point(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self._direction(t)
        length = self.path(alpha, sigma)
        return alpha / length, sigma / length

    def log_snr(self, t: Time) -> Time:
        """log(alpha^2 / sigma^2), strictly decreasing in t; inf at 0, perhaps -inf at 1."""
        alpha, sigma = self._direction(t.double())
        return torch.where(t <= 0, torch.inf, 2 * (alpha.log() - sigma.log())).to(t.dtype)

    def time(self, log_snr: Time) -> Time:
        """The t of a log-SNR: the inverse of `log_snr`; 0 or 1 for what lies beyond its ends."""
        return self._time(log_snr.double()).clamp(0, 1).to(log_snr.dtype)

    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self._point(t.double())
        return torch.where(t <= 0, 1, alpha).to(t.dtype), torch.where(t <= 0, 0, sigma).to(t.dtype)

    def derivative(self, t: Time) -> tuple[Time, Time]:
        """(alpha'(t), sigma'(t)) for t in (0, 1]; at a kink, the slope ahead."""
        point = t.double()
        alpha, sigma = torch.func.jvp(self._point, (point,), (torch.ones_like(point),))[1]
        return alpha.to(t.dtype), sigma.to(t.dtype)


class Table(Schedule, ABC):
    """A table of N betas (DDPM, arXiv 2006.11239): alpha^2 at t = i/N is prod_{j<=i} (1 - beta_j), exact there;
    between, log-SNR is linear in t."""

    def __init__(self, betas: Tensor):
        super().__init__(circle)
        log_alpha2 = torch.log1p(-betas.double()).cumsum(0)
        log_snr = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
        # One more knot at t = 0 goes on with the first slope, so that times below 1/N have a finite log-SNR.
        self.register_buffer("knots", torch.cat([2 * log_snr[:1] - log_snr[1:2], log_snr]), persistent=False)
        self.steps = len(betas)

    def _direction(self, t: Time) -> tuple[Time, Time]:
        position = t * self.steps
        low = position.floor().long().clamp(0, self.steps - 1)
        knots = self.knots.to(t.device)  # a grid asks from the CPU
        left, right = knots[low], knots[low + 1]
        log_snr = left + (position - low) * (right - left)
        return torch.exp(log_snr / 4), torch.exp(-log_snr / 4)

    def _time(self, log_snr: Time) -> Time:
        knots = self.knots.to(log_snr.device)
        value = log_snr.clamp(knots[-1], knots[0])
        high = torch.searchsorted(-knots, -value).clamp(1, self.steps)
        left, right = knots[high - 1], knots[high]
        return (high - 1 + (value - left) / (right - left)) / self.steps


class Linear(Table):
    """betas linear from `start` to `end` (DDPM, arXiv 2006.11239, section 4).

    Arguments:
        start, end: the first and the last beta.
        steps: of the table.
    """

    def __init__(self, start: PositiveFloat = 1e-4, end: PositiveFloat = 0.02, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start, end, steps, dtype=torch.float64))


class ScaledLinear(Table):
    """square roots of betas linear (latent diffusion, arXiv 2112.10752; Stable Diffusion's constants).

    Arguments:
        start, end: the first and the last beta.
        steps: of the table.
    """

    def __init__(self, start: PositiveFloat = 0.00085, end: PositiveFloat = 0.012, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)


class Bounded(Schedule, ABC):
    """A curve from log-SNR inf to -inf, of which t in [0, 1] is stretched over the part within [-bound, bound]
    (arXiv 2301.11093, appendix B): so noise can be predicted and slopes are finite at both ends."""

    @abstractmethod
    def _whole_direction(self, t: Time) -> tuple[Time, Time]:
        """`_direction` of the whole curve."""

    @abstractmethod
    def _whole_time(self, log_snr: Time) -> Time:
        """`_time` of the whole curve."""

    def _stretch(self, bound: float) -> None:
        self.low, self.high = self._whole_time(torch.tensor([bound, -bound], dtype=torch.float64)).tolist()

    def _direction(self, t: Time) -> tuple[Time, Time]:
        return self._whole_direction(self.low + (self.high - self.low) * t)

    def _time(self, log_snr: Time) -> Time:
        return (self._whole_time(log_snr) - self.low) / (self.high - self.low)


class Cosine(Bounded):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (arXiv 2102.09672, without its offset).

    Arguments:
        bound: of |log-SNR|, which t = 0 and t = 1 reach.
    """

    def __init__(self, bound: PositiveFloat = 15.0):
        super().__init__(circle)
        self._stretch(bound)

    def _whole_direction(self, t: Time) -> tuple[Time, Time]:
        angle = math.pi / 2 * t
        return torch.cos(angle), torch.sin(angle)

    def _whole_time(self, log_snr: Time) -> Time:
        return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))


class Sigmoid(Bounded):
    """alpha^2 = (h(end) - h(u)) / (h(end) - h(start)), h(u) = sigmoid(u / tau), with u from `start` to `end` as t from
    0 to 1 (arXiv 2212.11972, algorithm 1).

    Arguments:
        start, end: of u.
        tau: how soft the sigmoid is.
        bound: of |log-SNR|, which t = 0 and t = 1 reach.
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: PositiveFloat = 1.0, bound: PositiveFloat = 15.0):
        super().__init__(circle)
        if start >= end:
            raise ValueError(f"the sigmoid schedule runs from start to a greater end; got {start} and {end}")
        self.first, self.last = start / tau, end / tau
        self.left, self.right = (1 / (1 + math.exp(-u)) for u in (self.first, self.last))
        self._stretch(bound)

    def _whole_direction(self, t: Time) -> tuple[Time, Time]:
        now = torch.sigmoid(self.first + (self.last - self.first) * t)
        return (self.right - now).sqrt(), (now - self.left).sqrt()

    def _whole_time(self, log_snr: Time) -> Time:
        now = self.left + (self.right - self.left) * torch.sigmoid(-log_snr)
        return (torch.logit(now) - self.first) / (self.last - self.first)


class Preserving(Schedule):
    """alpha^2 = exp(-I), I = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2: the linear table's limit of many
    steps (arXiv 2011.13456, appendix C).

    Arguments:
        beta_min, beta_max: beta at t = 0 and at t = 1.
    """

    def __init__(self, beta_min: PositiveFloat = 0.1, beta_max: PositiveFloat = 20.0):
        super().__init__(circle)
        if beta_min >= beta_max:
            raise ValueError(f"beta grows from beta_min to a greater beta_max; got {beta_min} and {beta_max}")
        self.beta, self.growth = beta_min, beta_max - beta_min

    def _direction(self, t: Time) -> tuple[Time, Time]:
        integral = (self.beta + self.growth / 2 * t) * t
        return torch.exp(-integral / 2), (-torch.expm1(-integral)).sqrt()

    def _time(self, log_snr: Time) -> Time:
        integral = nn.functional.softplus(-log_snr)
        rate = self.beta / integral  # the quadratic's root in a form that holds from integral 0 to inf
        return 2 / (rate + (rate**2 + 2 * self.growth / integral).sqrt())


class Exploding(Schedule):
    """alpha = 1, sigma geometric from `sigma_min` to `sigma_max` (arXiv 2011.13456, appendix C; the constants are those
    of arXiv 2206.00364, table 1, which are meant for data of deviation 0.5).

    Arguments:
        sigma_min, sigma_max: sigma at t = 0 and at t = 1.
    """

    def __init__(self, sigma_min: PositiveFloat = 0.002, sigma_max: PositiveFloat = 80.0):
        super().__init__(upright)
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma grows from sigma_min to a greater sigma_max; got {sigma_min} and {sigma_max}")
        self.start, self.slope = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def _direction(self, t: Time) -> tuple[Time, Time]:
        return torch.ones_like(t), torch.exp(self.start + self.slope * t)

    def _time(self, log_snr: Time) -> Time:
        return (-log_snr / 2 - self.start) / self.slope


class Rectified(Schedule):
    """alpha = 1 - t, sigma = t: the straight path of rectified flow (arXiv 2209.03003)."""

    def __init__(self):
        super().__init__(line)

    def _direction(self, t: Time) -> tuple[Time, Time]:
        return 1 - t, t

    def _time(self, log_snr: Time) -> Time:
        return torch.sigmoid(-log_snr / 2)


class ZeroTerminalSNR(Schedule):
    """alpha(t) becomes (alpha(t) - alpha(1)) k, with k such that alpha stays what it was at t = `kept`: so x_1 is pure
    noise (arXiv 2305.08891, algorithm 1, which keeps the first of 1000 steps). Before `kept` nothing changes.

    Arguments:
        schedule: one that preserves variance, whose end is stretched.
        kept: the time at which alpha stays as it is.
    """

    def __init__(self, schedule: Schedule, kept: PositiveFloat = 1e-3):
        super().__init__(schedule.path)
        if schedule.path is not circle:
            raise ValueError(
                f"zero terminal SNR is for schedules that preserve variance, and {type(schedule).__name__} does not; "
                "use scaled_linear, linear, cosine, sigmoid or preserving (rectified ends in pure noise by itself)"
            )
        self.schedule = schedule
        ends = torch.tensor([kept, 1.0], dtype=torch.float64)
        first, self.last = schedule.alpha_sigma(ends)[0].tolist()
        self.gain, self.kept = first / (first - self.last), kept
        self.kept_log_snr = schedule.log_snr(ends)[0].item()

    def _direction(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self.schedule._point(t)
        less = (alpha - self.last) * self.gain
        early = t < self.kept
        return torch.where(early, alpha, less), torch.where(early, sigma, (1 - less**2).sqrt())

    def _time(self, log_snr: Time) -> Time:
        alpha = torch.sigmoid(log_snr).sqrt() / self.gain + self.last
        return self.schedule._time(torch.where(log_snr > self.kept_log_snr, log_snr, torch.logit(alpha**2)))


class Shifted(Schedule):
    """log-SNR less 2 log(shift): the same image at `shift` times the resolution keeps its SNR of what one sees
    (arXiv 2301.11093, section 3.2). Under `rectified` that is the time shift t -> s t / (1 + (s - 1) t) of Stable
    Diffusion 3 (arXiv 2403.03206, section 5.3.2), since sigma / alpha = t / (1 - t) is multiplied by s.

    Arguments:
        schedule: whose log-SNR is shifted.
        shift: how many times the noise, in sigma / alpha; 1 changes nothing.
    """

    def __init__(self, schedule: Schedule, shift: PositiveFloat = 3.0):
        super().__init__(schedule.path)
        self.schedule, self.shift = schedule, shift

    def _direction(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self.schedule._direction(t)
        return alpha, self.shift * sigma

    def _time(self, log_snr: Time) -> Time:
        return self.schedule._time(log_snr + 2 * math.log(self.shift))
