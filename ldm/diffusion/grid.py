"""Grids: the decreasing times at which a sampler stops, from 1 (noise) to 0 (data).

Three are those of published samplers on a table of N steps, whose step k = 0 ... N - 1 is our time (k + 1) / N:
`Leading`, `Trailing` and `Linspace` (arXiv 2305.08891, table 2). In the limit of many steps trailing is `Uniform`, and
is one with it where the number of steps divides N.

No step begins below the `lowest` time that was trained (ldm.diffusion.time), where a network would be asked for what it
has never seen: there a grid ends, and its last step goes to 0. A grid of noise levels takes it for the end of its range; any
other that goes lower is drawn together until its last step begins there.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ldm.constructed import Constructed
from ldm.diffusion.schedule import Schedule
from ldm.types import Probability


class Grid(Constructed, ABC):
    """Times for a sampler; a new one writes `_starts`."""

    @abstractmethod
    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        """The decreasing times at which the steps begin, float64. One that can end at `lowest` by itself does."""

    def __call__(self, schedule: Schedule, steps: PositiveInt, lowest: Probability = 0.0) -> Float[Tensor, " times"]:
        """steps + 1 decreasing times, the last one 0 and the others not below `lowest`, float32 on the CPU."""
        starts = self._starts(schedule, steps, lowest)
        first, last = starts[0].item(), starts[-1].item()
        if first < lowest:
            raise ValueError(
                f"the grid begins at t = {first:.4g} and the lowest time that was trained is {lowest:.4g}: begin later, or "
                "train with a law of times that goes lower"
            )
        if last < lowest:
            starts = first - (first - starts) * (first - lowest) / (first - last)
        return torch.cat([starts, starts.new_zeros(1)]).float()


class Uniform(Grid):
    """Equal steps of t from `start` to 0.

    Arguments:
        start: the first time; 1 is pure noise.
    """

    def __init__(self, start: PositiveFloat = 1.0):
        self.start = start

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        return torch.linspace(self.start, 0, steps + 1, dtype=torch.float64)[:-1]


class Tabular(Grid, ABC):
    """Steps of a table of `table`."""

    table: int

    @abstractmethod
    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        """The table's steps, from 0 to table - 1, decreasing whole numbers."""

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        if steps > self.table:
            raise ValueError(f"{steps} steps of a table of {self.table}; take fewer, or the grid uniform")
        return (self._ks(steps) + 1) / self.table


class Leading(Tabular):
    """0, r, 2r, ... + `offset` with r = table // steps, the offset as far as the table has room (Stable Diffusion, with
    offset 1). It begins below t = 1, where x_t holds some signal: for comparison with what was published.

    Arguments:
        offset: of every step, in steps of the table (Stable Diffusion takes 1).
        table: steps of the table that is thinned out.
    """

    def __init__(self, offset: NonNegativeInt = 1, table: PositiveInt = 1000):
        self.offset, self.table = offset, table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        ks = self.table // steps * torch.arange(steps, dtype=torch.float64).flip(0)
        return ks + min(self.offset, self.table - 1 - ks[0].item())


class Trailing(Tabular):
    """N - 1, N - 1 - r, ... with r = N / steps, rounded.

    Arguments:
        table: steps of the table that is thinned out.
    """

    def __init__(self, table: PositiveInt = 1000):
        self.table = table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        return (self.table - self.table / steps * torch.arange(steps, dtype=torch.float64)).round() - 1


class Linspace(Tabular):
    """From N - 1 to 0, both included, rounded.

    Arguments:
        table: steps of the table that is thinned out.
    """

    def __init__(self, table: PositiveInt = 1000):
        self.table = table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        return torch.linspace(self.table - 1, 0, steps, dtype=torch.float64).round()


class Levels(Grid, ABC):
    """Noise levels r = sigma / alpha from `sigma_max` to `sigma_min`, as far as the schedule and what was trained reach, then
    0."""

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        """r at places in [0, 1], from `high` to `low`."""

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        ends = torch.tensor([max(lowest, 1e-6), 1], dtype=torch.float64)
        least, most = torch.exp(schedule.log_snr(ends) / -2).tolist()
        low, high = max(self.sigma_min, least), min(self.sigma_max, most)
        if low >= high:
            raise ValueError(
                f"no noise level is both between sigma_min={self.sigma_min} and sigma_max={self.sigma_max} and of "
                f"{type(schedule).__name__}, from {least:.4g} to {most:.4g}"
            )
        return schedule.time(-2 * self._levels(high, low, torch.linspace(0, 1, steps, dtype=torch.float64)).log())


class Karras(Levels):
    """r^(1 / rho) in equal steps (arXiv 2206.00364, equation 5).

    Arguments:
        rho: how much closer steps are at low noise; 1 is even in sigma.
        sigma_min, sigma_max: the ends, of sigma / alpha.
    """

    def __init__(self, rho: PositiveFloat = 7.0, sigma_min: PositiveFloat = 0.002, sigma_max: PositiveFloat = 80.0):
        self.rho, self.sigma_min, self.sigma_max = rho, sigma_min, sigma_max

    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        first, last = high ** (1 / self.rho), low ** (1 / self.rho)
        return (first + place * (last - first)) ** self.rho


class LogSNR(Levels):
    """log-SNR in equal steps (DPM-Solver, arXiv 2206.00927, section 3.4): karras with infinite rho.

    Arguments:
        sigma_min, sigma_max: the ends, of sigma / alpha.
    """

    def __init__(self, sigma_min: PositiveFloat = 0.002, sigma_max: PositiveFloat = 80.0):
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        return high * (low / high) ** place


class Shifted(Grid):
    """t -> s t / (1 + (s - 1) t) on another grid (arXiv 2403.03206, section 5.3.2): more steps where there is much
    noise. Under `rectified` it samples as the schedule `shifted` on that grid does.

    Arguments:
        grid: whose times are shifted.
        shift: s above; 1 changes nothing.
    """

    def __init__(self, grid: Grid, shift: PositiveFloat = 3.0):
        self.grid, self.shift = grid, shift

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        t = self.grid._starts(schedule, steps, lowest / (self.shift - (self.shift - 1) * lowest))
        return self.shift * t / (1 + (self.shift - 1) * t)


class Custom(Grid):
    """The given decreasing times, the last one 0. With steps = len(times) - 1 they are taken as they stand; for any
    other number the list is a curve, linear between its points, of which as many equal parts are taken.

    Arguments:
        times: in [0, 1], strictly decreasing to 0.
    """

    def __init__(self, times: tuple[Probability, ...]):
        if len(times) < 2 or times[-1] != 0 or any(t <= s for t, s in itertools.pairwise(times)):
            raise ValueError(f"times are at least two, strictly decreasing and end at 0; got {times}")
        self.times = times

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        times = torch.tensor(self.times, dtype=torch.float64)
        place = torch.arange(steps, dtype=torch.float64) * (len(times) - 1) / steps
        low = place.long()
        return times[low] + (place - low) * (times[low + 1] - times[low])
