"""Grids: the decreasing times between which a sampler steps, from 1 (noise) to 0 (data).

Three of them reproduce published samplers, which are defined on a table of N steps; step k = 0 ... N - 1 of the table is
the time (k + 1) / N here. They are `Leading`, `Trailing` and `Linspace` (Lin et al. 2023, table 2). `Trailing` is the same
as `Uniform` where the number of sampling steps divides N, and tends to it with many steps.

No step begins below `lowest`, the lowest time that was trained (ldm.diffusion.time), because the network has not seen
noise levels below it. The last step goes from there to 0. A grid of noise levels takes `lowest` as the end of its range;
any other grid that goes lower is compressed linearly until its last step begins at `lowest`.

Sources:
    Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed (2023), arXiv 2305.08891
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
    Lu et al., DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps (2022),
        arXiv 2206.00927
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (2024), arXiv 2403.03206
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
    """A rule for the times of a sampler. A new one writes `_starts`."""

    @abstractmethod
    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        """The decreasing times at which the steps begin, float64. They may ignore `lowest`: the caller compresses them."""

    def __call__(self, schedule: Schedule, steps: PositiveInt, lowest: Probability = 0.0) -> Float[Tensor, " times"]:
        """steps + 1 decreasing times, float32 on the CPU; the last one is 0 and the others are not below `lowest`.

        Arguments:
            schedule: the noise schedule, which grids of noise levels need.
            steps: number of sampling steps.
            lowest: the lowest time that was trained.
        Raises:
            ValueError: the grid begins below `lowest`.
        """
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
    """A choice of steps from a table of `table` steps, as published samplers define theirs."""

    table: int

    @abstractmethod
    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        """The chosen steps of the table: decreasing whole numbers from 0 to table - 1."""

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        if steps > self.table:
            raise ValueError(f"{steps} steps of a table of {self.table}; take fewer, or the grid uniform")
        return (self._ks(steps) + 1) / self.table


class Leading(Tabular):
    """The steps 0, r, 2r, ... of the table with r = table // steps, each plus `offset` (Stable Diffusion, with offset 1).

    The first step begins below t = 1, where x_t still holds some signal although sampling starts from pure noise. This
    grid is here for comparison with published results.

    Arguments:
        offset: added to every step, in steps of the table, as far as the table has room (Stable Diffusion takes 1).
        table: number of steps of the table.
    """

    def __init__(self, offset: NonNegativeInt = 1, table: PositiveInt = 1000):
        self.offset, self.table = offset, table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        ks = self.table // steps * torch.arange(steps, dtype=torch.float64).flip(0)
        return ks + min(self.offset, self.table - 1 - ks[0].item())


class Trailing(Tabular):
    """The steps N - 1, N - 1 - r, N - 1 - 2r, ... of a table of N, with r = N / steps, rounded.

    Arguments:
        table: number of steps N of the table.
    """

    def __init__(self, table: PositiveInt = 1000):
        self.table = table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        return (self.table - self.table / steps * torch.arange(steps, dtype=torch.float64)).round() - 1


class Linspace(Tabular):
    """Equally spaced steps of a table of N from N - 1 to 0, both included, rounded.

    Arguments:
        table: number of steps N of the table.
    """

    def __init__(self, table: PositiveInt = 1000):
        self.table = table

    def _ks(self, steps: int) -> Float[Tensor, " steps"]:
        return torch.linspace(self.table - 1, 0, steps, dtype=torch.float64).round()


class Levels(Grid, ABC):
    """Times of the noise levels r = sigma / alpha from `sigma_max` to `sigma_min`, as far as the schedule and the trained
    times reach, and then t = 0."""

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        """The noise levels at `place` in [0, 1], from `high` at 0 to `low` at 1."""

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
    """Noise levels r = sigma / alpha at equal steps of r^(1 / rho) (Karras et al. 2022, equation 5).

    Arguments:
        rho: how much closer together the steps are at low noise; 1 is even in r.
        sigma_min, sigma_max: the lowest and the highest noise level sigma / alpha.
    """

    def __init__(self, rho: PositiveFloat = 7.0, sigma_min: PositiveFloat = 0.002, sigma_max: PositiveFloat = 80.0):
        self.rho, self.sigma_min, self.sigma_max = rho, sigma_min, sigma_max

    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        first, last = high ** (1 / self.rho), low ** (1 / self.rho)
        return (first + place * (last - first)) ** self.rho


class LogSNR(Levels):
    """Noise levels at equal steps of log SNR (DPM-Solver, Lu et al. 2022, section 3.4); the limit of `karras` for rho -> inf.

    Arguments:
        sigma_min, sigma_max: the lowest and the highest noise level sigma / alpha.
    """

    def __init__(self, sigma_min: PositiveFloat = 0.002, sigma_max: PositiveFloat = 80.0):
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _levels(self, high: float, low: float, place: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        return high * (low / high) ** place


class Shifted(Grid):
    """Another grid with its times mapped by t -> s t / (1 + (s - 1) t) (Esser et al. 2024, section 5.3.2), which puts more
    steps where there is much noise. On the schedule `rectified` this samples as the schedule `shifted` does on that grid.

    Arguments:
        grid: the grid whose times are mapped.
        shift: the factor s; 1 changes nothing.
    """

    def __init__(self, grid: Grid, shift: PositiveFloat = 3.0):
        self.grid, self.shift = grid, shift

    def _starts(self, schedule: Schedule, steps: int, lowest: float) -> Float[Tensor, " steps"]:
        t = self.grid._starts(schedule, steps, lowest / (self.shift - (self.shift - 1) * lowest))
        return self.shift * t / (1 + (self.shift - 1) * t)


class Custom(Grid):
    """The times of a list.

    With steps = len(times) - 1 the times are taken as they are. For another number of steps they are interpolated linearly
    between the entries of the list, at equal distances along it.

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
