"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x + sigma eps, from t = 0 (data) to t = 1 (noise).

(alpha, sigma) is a point in the first quadrant of the plane, and a schedule makes two independent choices for it. The
direction of the point is the log SNR, log(alpha^2 / sigma^2). It falls with t, and in continuous time it is all that
matters (Kingma et al. 2021, section 3). The length of the point is only a scale of x_t, and is given by a path: on the
`circle` alpha^2 + sigma^2 = 1 variance is preserved, the `line` alpha + sigma = 1 is the straight path of flow matching,
and on the `upright` alpha = 1 the variance explodes. Schedules that wrap another one change the log SNR and keep the path.

At exactly t = 0 there is no noise: alpha = 1, sigma = 0 and log SNR = inf, whatever the limit of t -> 0 is. All
arithmetic is in float64 and unaffected by autocast; results have the dtype of t.

Sources:
    Kingma et al., Variational Diffusion Models (2021), arXiv 2107.00630
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow (2022),
        arXiv 2209.03003
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
    Hoogeboom et al., Simple Diffusion: End-to-End Diffusion for High Resolution Images (2023), arXiv 2301.11093
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models (2021), arXiv 2102.09672
    Jabri et al., Scalable Adaptive Computation for Iterative Generation (2022), arXiv 2212.11972
    Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed (2023), arXiv 2305.08891
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (2024), arXiv 2403.03206
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
"""A length of (alpha, sigma), homogeneous of degree 1, that equals 1 exactly on the path."""


def circle(alpha: Tensor, sigma: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2), which is 1 where variance is preserved (Ho et al. 2020)."""
    return (alpha.square() + sigma.square()).sqrt()


def line(alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha + sigma, which is 1 on the straight path of rectified flow (Liu et al. 2022)."""
    return alpha + sigma


def upright(alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha, which is 1 where the variance explodes (Song et al. 2020; Karras et al. 2022)."""
    return alpha


class Schedule(Constructed, nn.Module, ABC):
    """A noise schedule. All methods take times or log SNRs (b,) and return (b,). A new one writes `_direction` and `_time`.

    Arguments:
        path: the length of (alpha, sigma) that is 1: `circle`, `line` or `upright`.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @abstractmethod
    def _direction(self, t: Time) -> tuple[Time, Time]:
        """(alpha, sigma) up to a common factor, for t > 0; differentiable up to and including t = 1."""

    @abstractmethod
    def _time(self, log_snr: Time) -> Time:
        """The time at which the schedule has a log SNR; below 0 or above 1 for a log SNR that it does not reach."""

    def _point(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self._direction(t)
        length = self.path(alpha, sigma)
        return alpha / length, sigma / length

    def log_snr(self, t: Time) -> Time:
        """log(alpha^2 / sigma^2), which strictly decreases with t: inf at t = 0, and -inf at t = 1 where alpha(1) = 0."""
        alpha, sigma = self._direction(t.double())
        return torch.where(t <= 0, torch.inf, 2 * (alpha.log() - sigma.log())).to(t.dtype)

    def time(self, log_snr: Time) -> Time:
        """The inverse of `log_snr`: the time of a log SNR, and 0 or 1 for a log SNR beyond the schedule's ends."""
        return self._time(log_snr.double()).clamp(0, 1).to(log_snr.dtype)

    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        """(alpha(t), sigma(t)) for t in [0, 1]."""
        alpha, sigma = self._point(t.double())
        return torch.where(t <= 0, 1, alpha).to(t.dtype), torch.where(t <= 0, 0, sigma).to(t.dtype)

    def derivative(self, t: Time) -> tuple[Time, Time]:
        """(alpha'(t), sigma'(t)) for t in (0, 1]; where the schedule has a kink, the derivative from above."""
        point = t.double()
        alpha, sigma = torch.func.jvp(self._point, (point,), (torch.ones_like(point),))[1]
        return alpha.to(t.dtype), sigma.to(t.dtype)


class Table(Schedule, ABC):
    """A table of N betas (DDPM, Ho et al. 2020): alpha^2 = prod_{j <= i} (1 - beta_j) at t = i / N, and log SNR linear in t
    between these times.

    Arguments:
        betas: beta_1, ..., beta_N, each in (0, 1).
    """

    def __init__(self, betas: Tensor):
        super().__init__(circle)
        log_alpha2 = torch.log1p(-betas.double()).cumsum(0)
        log_snr = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
        # Another knot at t = 0 continues the first slope, so that times below 1/N have a finite log SNR.
        self.register_buffer("knots", torch.cat([2 * log_snr[:1] - log_snr[1:2], log_snr]), persistent=False)
        self.steps = len(betas)

    def _direction(self, t: Time) -> tuple[Time, Time]:
        position = t * self.steps
        low = position.floor().long().clamp(0, self.steps - 1)
        knots = self.knots.to(t.device)  # grids compute on the CPU
        left, right = knots[low], knots[low + 1]
        log_snr = left + (position - low) * (right - left)
        return torch.exp(log_snr / 4), torch.exp(-log_snr / 4)

    def _time(self, log_snr: Time) -> Time:
        knots = self.knots.to(log_snr.device)
        value = log_snr.clamp(knots[-1], knots[0])
        high = torch.searchsorted(-knots, -value).clamp(1, self.steps)
        left, right = knots[high - 1], knots[high]
        return (high - 1 + (value - left) / (right - left)) / self.steps


class Betas(Table):
    """A table of given betas.

    Arguments:
        betas: beta_1, ..., beta_N, each in (0, 1).
    """

    def __init__(self, betas: tuple[float, ...]):
        if len(betas) < 2 or not all(0 < beta < 1 for beta in betas):
            raise ValueError(
                f"betas are at least two numbers between 0 and 1; got {len(betas)} from {min(betas, default=0)}"
            )
        super().__init__(torch.tensor(betas, dtype=torch.float64))


class Linear(Table):
    """A table of betas that grow linearly from `start` to `end` (DDPM, Ho et al. 2020, section 4).

    Arguments:
        start, end: the first and the last beta.
        steps: number of betas.
    """

    def __init__(self, start: PositiveFloat = 1e-4, end: PositiveFloat = 0.02, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start, end, steps, dtype=torch.float64))


class ScaledLinear(Table):
    """A table of betas whose square roots grow linearly (latent diffusion, Rombach et al. 2021; by default with the constants
    of Stable Diffusion).

    Arguments:
        start, end: the first and the last beta.
        steps: number of betas.
    """

    def __init__(self, start: PositiveFloat = 0.00085, end: PositiveFloat = 0.012, steps: PositiveInt = 1000):
        super().__init__(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)


class Bounded(Schedule, ABC):
    """A schedule whose log SNR would run from inf to -inf, restricted to the part with |log SNR| <= bound, which is stretched
    over t in [0, 1] (Hoogeboom et al. 2023, appendix B). So noise can be predicted, and derivatives are finite at both
    ends."""

    @abstractmethod
    def _whole_direction(self, t: Time) -> tuple[Time, Time]:
        """`_direction` of the unrestricted schedule."""

    @abstractmethod
    def _whole_time(self, log_snr: Time) -> Time:
        """`_time` of the unrestricted schedule."""

    def _stretch(self, bound: float) -> None:
        self.low, self.high = self._whole_time(torch.tensor([bound, -bound], dtype=torch.float64)).tolist()

    def _direction(self, t: Time) -> tuple[Time, Time]:
        return self._whole_direction(self.low + (self.high - self.low) * t)

    def _time(self, log_snr: Time) -> Time:
        return (self._whole_time(log_snr) - self.low) / (self.high - self.low)


class Cosine(Bounded):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Nichol and Dhariwal 2021, equation 17, without the offset s).

    Arguments:
        bound: the greatest |log SNR|, reached at t = 0 and at t = 1.
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
    """alpha^2 = (h(end) - h(u)) / (h(end) - h(start)) with h(u) = sigmoid(u / tau), where u runs from `start` to `end` while
    t runs from 0 to 1 (Jabri et al. 2022, algorithm 1).

    Arguments:
        start, end: the range of u.
        tau: temperature; a greater one makes the sigmoid softer.
        bound: the greatest |log SNR|, reached at t = 0 and at t = 1.
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
    """alpha^2 = exp(-I) with I = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2: the variance-preserving SDE, the
    limit of the linear table for many steps (Song et al. 2020, appendix C).

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
        rate = self.beta / integral  # this form of the quadratic's root is accurate for every integral from 0 to inf
        return 2 / (rate + (rate**2 + 2 * self.growth / integral).sqrt())


class Exploding(Schedule):
    """alpha = 1 and sigma geometric from `sigma_min` to `sigma_max`: the variance-exploding SDE (Song et al. 2020, appendix
    C). The defaults are those of Karras et al. 2022, table 1, which are meant for data of standard deviation 0.5.

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
    """alpha = 1 - t, sigma = t: the straight path of rectified flow (Liu et al. 2022)."""

    def __init__(self):
        super().__init__(line)

    def _direction(self, t: Time) -> tuple[Time, Time]:
        return 1 - t, t

    def _time(self, log_snr: Time) -> Time:
        return torch.sigmoid(-log_snr / 2)


class ZeroTerminalSNR(Schedule):
    """Another schedule with alpha(t) replaced by k (alpha(t) - alpha(1)), so that x_1 is pure noise (zero terminal SNR,
    Lin et al. 2023, algorithm 1).

    k is chosen such that alpha does not change at t = `kept`; before that time nothing changes. The paper leaves the first
    of 1000 steps as it is.

    Arguments:
        schedule: a schedule that preserves variance.
        kept: the time up to which alpha stays as it is.
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
    """Another schedule with its log SNR lowered by 2 log(shift), that is with sigma / alpha multiplied by `shift`.

    An image at s times the resolution needs s times the noise to be hidden as well as before, since averages over
    neighbouring pixels remove independent noise (Hoogeboom et al. 2023, section 3.2). On the schedule `rectified` this is
    the time shift t -> s t / (1 + (s - 1) t) of Stable Diffusion 3 (Esser et al. 2024, section 5.3.2), because there
    sigma / alpha = t / (1 - t).

    Arguments:
        schedule: the schedule whose log SNR is shifted.
        shift: the factor of sigma / alpha; 1 changes nothing.
    """

    def __init__(self, schedule: Schedule, shift: PositiveFloat = 3.0):
        super().__init__(schedule.path)
        self.schedule, self.shift = schedule, shift

    def _direction(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self.schedule._direction(t)
        return alpha, self.shift * sigma

    def _time(self, log_snr: Time) -> Time:
        return self.schedule._time(log_snr + 2 * math.log(self.shift))
