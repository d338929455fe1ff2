r"""Means over training seeds, and whether the difference of two settings can be told. Pure functions.

Two errors are kept apart. The *sampling error* of a number is that of one measuring: of n images instead of all that a model
could make. The *deviation between seeds*, s = sqrt(sum_i (x_i - mean)^2 / (k - 1)) over k trainings, is what another training
would change (the sampling error is part of it); in published studies it is about three times as large.

Two settings are compared by their differences d_i = a_i - b_i, each between runs of one seed, which share first stage, order of
data and noise. Their mean has the interval of Student (The Probable Error of a Mean, 1908)

    d +- t(k - 1, 97.5 %) s_d / sqrt(k),

and a difference is *told* where this does not contain 0: if there is none, this happens in 5 % of comparisons. It is assumed
that the d_i are independent and about normal; with two seeds t = 12.7, so that little can be told, and that is as it is.

One seed on each side says nothing of trainings. Then d +- max(1.96 sqrt(e_a^2 + e_b^2), 3 % of the larger number) takes the place
of the interval, with the sampling errors e: closer than 3 % is no verdict, whatever n is. This rule has no stated rate: trainings
that deviate by 1, 1.5 or 2 % are told apart falsely in 3, 16 or 29 % of comparisons, for their difference deviates by sqrt(2)
times as much. What has no sampling error either gives no verdict; numbers that were counted are what they are.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
"""Of the intervals."""
CLOSE = 0.03
"""Single seeds that are relatively closer than this give no verdict."""


@dataclass(frozen=True)
class Number:
    """A number of one run with its sampling error, None where that is not known."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Summary:
    """Numbers of several training seeds.

    Fields:
        mean: over seeds.
        error: the sampling error of one of them (root mean square); None where one is not known.
        deviation: between seeds; None of a single one.
        seeds: their number.
    """

    mean: float
    error: float | None
    deviation: float | None
    seeds: int


def summary(numbers: Sequence[Number]) -> Summary:
    """Of at least one number."""
    k = len(numbers)
    mean = sum(each.value for each in numbers) / k
    errors = [each.error for each in numbers if each.error is not None]
    error = math.sqrt(sum(e**2 for e in errors) / k) if len(errors) == k else None
    deviation = math.sqrt(sum((each.value - mean) ** 2 for each in numbers) / (k - 1)) if k > 1 else None
    return Summary(mean, error, deviation, k)


class Basis(enum.Enum):
    """What a difference rests on."""

    PAIRS = "pairs of runs of one seed"
    SINGLE = "single seeds"
    COUNTED = "numbers without an error"
    NO_ERROR = "single seeds without a sampling error"
    NO_PAIR = "no two runs of one seed"


@dataclass(frozen=True)
class Difference:
    """Of two settings, a - b.

    Fields:
        mean: over pairs; NaN where there is none.
        low, high: the interval around it; NaN where there is none.
        relative: of the mean to the larger of both settings' numbers, by magnitude.
        pairs: how many.
        basis: what it rests on.
        only_a, only_b: seeds (or other keys) that the other has not, in their order.
    """

    mean: float
    low: float
    high: float
    relative: float
    pairs: int
    basis: Basis
    only_a: tuple[Hashable, ...] = ()
    only_b: tuple[Hashable, ...] = ()

    @property
    def told(self) -> bool:
        """Whether its sign can be told. NaN is told of nothing."""
        return self.low > 0 or self.high < 0


def difference(a: Mapping[Hashable, Number], b: Mapping[Hashable, Number], counted: bool = False) -> Difference:
    """The difference of two settings whose numbers are given by seed.

    Arguments:
        a, b: finite numbers.
        counted: whether they have no error at all, as a number of operations.
    """
    both = [key for key in a if key in b]
    alone = (tuple(key for key in a if key not in b), tuple(key for key in b if key not in a))
    if not both:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0, Basis.NO_PAIR, *alone)
    differences = [a[key].value - b[key].value for key in both]
    mean = sum(differences) / len(both)
    size = max(abs(sum(side[key].value for key in both)) / len(both) for side in (a, b))
    half, basis = _half(differences, [(a[key].error, b[key].error) for key in both], size, counted)
    return Difference(mean, mean - half, mean + half, abs(mean) / size if size else 0.0, len(both), basis, *alone)


def _half(
    differences: Sequence[float], errors: Sequence[tuple[float | None, float | None]], size: float, counted: bool
) -> tuple[float, Basis]:
    """Half of the interval's width, and what it rests on."""
    k = len(differences)
    if counted:
        return 0.0, Basis.COUNTED
    if k > 1:
        return student(k - 1) * _deviation(differences) / math.sqrt(k), Basis.PAIRS
    (e, f), normal = errors[0], NormalDist().inv_cdf((1 + LEVEL) / 2)
    if e is None or f is None:
        return math.nan, Basis.NO_ERROR
    return max(normal * math.hypot(e, f), CLOSE * size), Basis.SINGLE


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def student(freedom: int) -> float:
    """The two-sided quantile of Student's distribution at `LEVEL`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
