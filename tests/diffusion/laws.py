"""Laws that every sampler of conf/ obeys, whoever wrote it; what a law has to know of a sampler stands on its class.

On Gaussian data the denoiser is affine in x_t, so a sample is an affine function of its start and of all noise that was
added: answers to single impulses give its mean and deviation exactly, and their errors have no standard error.
"""

import itertools
import math

import torch

from ldm.diffusion.denoiser import along
from ldm.diffusion.sampler.base import Sampler
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.euler import Euler
from ldm.diffusion.sampler.langevin import Langevin
from ldm.diffusion.schedule import Exploding, Schedule, Sigmoid
from ldm.random import Random
from ldm.types import Context
from tests.diffusion.gaussian import GaussianDenoiser

# Three channels of data, so that no accident of one of them makes a first-order method look like a second.
MEAN = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.6, 0.15, 1.5], dtype=torch.float64).view(3, 1, 1)


def times_between(start: float, end: float, steps: int) -> torch.Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def spread(schedule: Schedule, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of x_t, (3, 1, 1)."""
    alpha, sigma = schedule.alpha_sigma(time)
    return alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt()


class Impulses(Random):
    """Noise that is 1 in its n-th draw in row n + 2, and 0 elsewhere."""

    def __init__(self, rows: int):
        super().__init__(0, 0, torch.arange(rows))
        self.draws = 0

    def normal(self, stream, shape=()):
        z = torch.zeros(len(self.rows), *shape, dtype=torch.float64)
        z[self.draws + 2 : self.draws + 3] = 1
        self.draws += 1
        return z


def moments(sampler: Sampler, schedule: Schedule, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of x at the end of `times`, exactly, where x at their start is exact; (3, 1, 1)."""
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    mean, std = spread(schedule, times[:1])
    draws = 8 * len(times) if sampler.stochastic else 0  # an impulse that nobody asks for changes nothing
    x = mean.repeat(draws + 2, 1, 1, 1)
    x[1] += std
    found = sampler(denoiser, x, times, Context(), Impulses(draws + 2))
    return found[0], (found[1:] - found[0]).square().sum(0).sqrt()


def error(sampler: Sampler, schedule: Schedule, times: torch.Tensor) -> float:
    """Of mean and deviation, in units of the deviation, on the average of the channels."""
    mean, std = spread(schedule, times[-1:])
    found = moments(sampler, schedule, times)
    return float((((found[0] - mean).abs() + (found[1] - std).abs()) / std).mean())


def levels(schedule: Schedule, steps: int) -> torch.Tensor:
    """Times at equal steps of log-SNR from -5 to 5: there a sampler is soon as good as its order says."""
    return schedule.time(torch.linspace(-5, 5, steps + 1, dtype=torch.float64))


def converges(sampler: Sampler, schedule: Schedule) -> None:
    """Twice the steps leave 2^-order of the error, and as little as `floor`."""
    coarse, fine = (error(sampler, schedule, levels(schedule, steps)) for steps in (40, 80))
    assert fine < max(coarse / (0.7 * 2**sampler.order), sampler.floor), (coarse, fine)


def turns(schedule: Schedule, steps: int) -> torch.Tensor:
    """Times from 1, where alpha may be 0, to 0, where sigma is, at equal steps of the angle atan(sigma / alpha)."""
    angle = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64)[1:-1]
    inner = schedule.time(-2 * angle.tan().log())
    return torch.tensor([1.0, *inner[inner < 1].tolist(), 0.0], dtype=torch.float64)


def arrives(sampler: Sampler, schedule: Schedule) -> None:
    """From the first time to the last, and better with more steps."""
    coarse, fine = (error(sampler, schedule, turns(schedule, steps)) for steps in (8, 32))
    assert fine < max(0.85 * coarse, sampler.floor), (coarse, fine)


class Stays(Sampler):
    """No step at all: x_t / sqrt(alpha^2 + sigma^2) is kept, and the last answer of the denoiser is all that is done."""

    order = 1

    def step(self, denoiser, x_t, t, s, c, noise, memory):
        ends = [torch.hypot(*denoiser.schedule.alpha_sigma(time)) for time in (s, t)]
        return along(ends[0] / ends[1], x_t) * x_t, None


def first_order(sampler: Sampler, schedule: Schedule) -> Sampler:
    """What a sampler of few steps is measured by: DDIM, or ancestral sampling where noise is added. Two are known to be
    worse, and say so: where nothing but Langevin's dynamics takes noise away, it needs more steps than that, and does no
    more harm than no step; and Euler's method in t goes along tangents, which leave a path that bends as fast as these."""
    if isinstance(sampler, Langevin):
        return Stays()
    if isinstance(sampler, Euler) and isinstance(schedule, (Exploding, Sigmoid)):
        return sampler
    return DDIM(float(sampler.stochastic))


def keeps_up(sampler: Sampler, schedule: Schedule) -> None:
    """In 3 to 20 steps, from the first time to the last, no worse than a first-order rule, however long the steps are."""
    for steps in (3, 5, 10, 20):
        times = times_between(1.0, 0.0, steps)
        found, bound = (error(each, schedule, times) for each in (sampler, first_order(sampler, schedule)))
        assert found < 1.1 * bound + sampler.floor, (steps, found, bound)


def inverts(sampler: Sampler, schedule: Schedule) -> None:
    """Times reversed lead back; from data, too."""
    denoiser, random = GaussianDenoiser(schedule, MEAN, STD), Random(0, 0, torch.arange(8))
    mean, std = spread(schedule, torch.zeros(1, dtype=torch.float64))
    x = mean + std * random.normal("x", (3, 1, 1)).double()
    times, errors = [times_between(0.0, 0.9, steps) for steps in (30, 90)], []
    for grid in times:
        there = sampler(denoiser, x, grid, Context(), random)
        errors.append((sampler(denoiser, there, grid.flip(0), Context(), random) - x).abs().mean().item())
    assert errors[1] < max(0.6 * errors[0], sampler.floor, 1e-3), errors


def is_a_function(sampler: Sampler, schedule: Schedule) -> None:
    """of seed, start and times: not of the batch, nor of what it sampled before."""
    denoiser, times, random = (
        GaussianDenoiser(schedule, 0.3, 0.6),
        times_between(1, 0, 6).float(),
        Random(3, 0, torch.arange(6)),
    )
    x = random.normal("start", (1, 2, 2))
    whole = sampler(denoiser, x, times, Context(), random)
    assert whole.dtype == x.dtype and torch.equal(whole, sampler(denoiser, x, times, Context(), random))
    for part in (slice(0, 1), slice(1, 6)):
        assert torch.equal(whole[part], sampler(denoiser, x[part], times, Context(), random[part]))
    other = sampler(denoiser, x, times, Context(), Random(4, 0, random.rows))
    assert torch.equal(whole, other) != sampler.stochastic


def keeps_the_moments(sampler: Sampler, schedule: Schedule, n: int = 4000) -> None:
    """Mean and covariance of n samples of two pixels, within 4 standard errors of n normal ones, beside the error that the exact
    moments say this grid has."""
    times, random = times_between(0.9, 0.1, 60), Random(5, 0, torch.arange(n))
    mean, std = (value[0].item() for value in spread(schedule, times[-1:]))
    start, wide = (value[0].item() for value in spread(schedule, times[:1]))
    x = start + wide * random.normal("start", (1, 1, 2)).double()
    found = sampler(GaussianDenoiser(schedule, 0.3, 0.6), x, times, Context(), random).flatten(1)
    bias = 3 * error(sampler, schedule, times)
    assert ((found.mean(0) - mean).abs() / std < 4 / n**0.5 + bias).all()
    off = torch.cov(found.T) / std**2 - torch.eye(2, dtype=torch.float64)
    assert (off.abs() < 4 * (2 / n) ** 0.5 + 2 * bias + bias**2).all()


ALL = (converges, arrives, keeps_up, is_a_function)
DETERMINISTIC, STOCHASTIC = (*ALL, inverts), (*ALL, keeps_the_moments)


def laws_of(sampler: Sampler):
    return STOCHASTIC if sampler.stochastic else DETERMINISTIC


def cases(samplers: dict, schedules: dict) -> list[tuple[str, str, str]]:
    """(sampler, schedule, law) for every sampler under every schedule; what does not depend on the schedule, under one."""
    found = []
    for name, schedule in itertools.product(samplers, schedules):
        for law in laws_of(samplers[name]()):
            if law in (converges, arrives, keeps_up) or schedule == next(iter(schedules)):
                found.append((name, schedule, law.__name__))
    return found
