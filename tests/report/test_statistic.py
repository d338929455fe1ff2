"""Means, deviations and intervals by hand; how often a difference is told by simulation."""

import math

import pytest
import torch

from ldm.report.statistic import Basis, Number, difference, student, summary


def numbers(*values: float, error: float | None = None) -> dict[int, Number]:
    return {seed: Number(value, error) for seed, value in enumerate(values)}


def test_a_mean_its_sampling_error_and_its_deviation_by_hand():
    """1, 2 and 6: the mean is 3, the deviation sqrt((4 + 1 + 9) / 2); the root mean square of .3, .4 and 0 is .5 / sqrt 3."""
    found = summary([Number(1.0, 0.3), Number(2.0, 0.4), Number(6.0, 0.0)])
    assert (found.mean, found.seeds) == (3.0, 3)
    assert found.deviation == pytest.approx(math.sqrt(7)) and found.error == pytest.approx(0.5 / math.sqrt(3))
    assert summary([Number(4.0)]).deviation is None and summary([Number(4.0, 0.1), Number(4.0)]).error is None


@pytest.mark.parametrize(("freedom", "wanted"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262)])
def test_student_is_of_the_table(freedom, wanted):
    assert student(freedom) == pytest.approx(wanted, abs=5e-4)


def test_a_paired_difference_by_hand():
    """Differences 1, 2 and 3: mean 2, deviation 1, so +- 4.303 / sqrt 3 = 2.484."""
    found = difference(numbers(11.0, 22.0, 33.0), numbers(10.0, 20.0, 30.0))
    assert (found.mean, found.pairs, found.basis) == (2.0, 3, Basis.PAIRS)
    assert found.low == pytest.approx(-0.484, abs=1e-3) and found.high == pytest.approx(4.484, abs=1e-3)
    assert not found.told and found.relative == pytest.approx(2 / 22)
    assert difference(numbers(11.0, 22.1, 32.9), numbers(9.0, 20.0, 31.0)).told


def test_seeds_that_the_other_has_not_are_left_out_and_named():
    a, b = {0: Number(1.0), 1: Number(2.0), 2: Number(9.0)}, {1: Number(1.0), 0: Number(1.0), 5: Number(7.0)}
    found = difference(a, b)
    assert (found.mean, found.pairs, found.only_a, found.only_b) == (0.5, 2, (2,), (5,))
    nothing = difference({0: Number(1.0)}, {1: Number(9.0)})
    assert nothing.basis is Basis.NO_PAIR and not nothing.told and math.isnan(nothing.mean)


@pytest.mark.parametrize(
    ("a", "b", "error", "told", "basis"),
    [
        (100.0, 102.9, 0.1, False, Basis.SINGLE),  # closer than 3 %
        (100.0, 103.2, 0.1, True, Basis.SINGLE),
        (100.0, 110.0, 4.0, False, Basis.SINGLE),  # 1.96 sqrt(2) 4 = 11.1
        (100.0, 112.0, 4.0, True, Basis.SINGLE),
        (100.0, 300.0, None, False, Basis.NO_ERROR),
        (-100.0, -103.2, 0.1, True, Basis.SINGLE),
        (0.0, 0.0, 0.0, False, Basis.SINGLE),
    ],
)
def test_single_seeds(a, b, error, told, basis):
    found = difference(numbers(a, error=error), numbers(b, error=error))
    assert (found.told, found.basis) == (told, basis)


def test_what_was_counted_is_what_it_is():
    assert difference(numbers(5.0), numbers(6.0), counted=True).told
    same = difference(numbers(5.0, 5.0), numbers(5.0, 5.0), counted=True)
    assert not same.told and same.mean == 0 and same.basis is Basis.COUNTED


def pairs(planted: float, seeds: int, count: int = 200) -> int:
    """Of so many pairs of settings that share their seeds' part and differ by `planted` deviations, how many are told apart."""
    shared, own = torch.randn(count, 1, seeds), torch.randn(count, 2, seeds)
    values = 10 + shared + own + torch.tensor([[planted], [0.0]])
    return sum(difference(numbers(*a.tolist()), numbers(*b.tolist())).told for a, b in values)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_of_200_pairs_without_a_difference_as_many_are_told_as_is_stated(seeds):
    """5 % is 10 of 200, deviating by 3.1; outside of four deviations is once in 30,000."""
    assert pairs(0.0, seeds) <= 10 + 4 * 3.1


@pytest.mark.parametrize(("seeds", "planted"), [(3, 12.0), (5, 5.0), (10, 2.5)])
def test_a_planted_difference_is_told(seeds, planted):
    """Power of the t test: above 97 % each."""
    assert pairs(planted, seeds) >= 180


def test_single_seeds_that_deviate_by_one_per_cent_are_told_apart_as_often_as_is_said():
    """|N(0, sqrt 2 %)| > 3 % in 3.4 %: 6.8 of 200, deviating by 2.6."""
    values = 100 + torch.randn(200, 2, dtype=torch.float64)
    told = sum(difference(numbers(a, error=0.0), numbers(b, error=0.0)).told for a, b in values.tolist())
    assert told <= 6.8 + 4.2 * 2.6
