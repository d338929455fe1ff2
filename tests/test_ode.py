"""Solvers against y' = -u y and y' = r y, whose solutions are known; every row on its own."""

import pytest
import torch

from ldm.ode import DormandPrince, RungeKutta

RATES = torch.tensor([-1.0, 0.5, 1.0, 0.0], dtype=torch.float64)
ONES = torch.ones(4, dtype=torch.float64)


def growth(u, y):
    return (RATES[: len(y)] - u)[:, None] * y


def exact(u):
    return torch.exp(RATES * u - u**2 / 2)


def test_fixed_steps_are_of_fourth_order():
    errors = []
    for steps in (10, 20):
        y = RungeKutta(steps)(growth, ONES[:, None], 0 * ONES, 2 * ONES).y[:, 0]
        errors.append((y - exact(2 * ONES)).abs().max())
    assert errors[0] / errors[1] > 13


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_adaptive_keeps_its_tolerance_both_ways(tolerance):
    solver, end = DormandPrince(tolerance), torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    there = solver(growth, ONES[:, None], 0 * ONES, end)
    assert ((there.y[:, 0] - exact(end)).abs() < 10 * tolerance).all()
    back = solver(growth, there.y, end, 0 * ONES)
    assert ((back.y[:, 0] - 1).abs() < 500 * tolerance).all()  # the first row grows by e^4 on its way back
    assert there.evaluations[3] == 1 and there.evaluations[0] > there.evaluations[2] > 1


def test_rows_do_not_know_each_other():
    solver = DormandPrince(1e-6)
    whole = solver(growth, ONES[:, None], 0 * ONES, 2 * ONES)
    part = solver(growth, ONES[:2, None], 0 * ONES[:2], 2 * ONES[:2])
    assert torch.equal(whole.y[:2], part.y) and torch.equal(whole.evaluations[:2], part.evaluations)


def test_what_has_no_solution_is_an_error():
    with pytest.raises(ArithmeticError, match="tolerance"):
        DormandPrince(1e-6, steps=50)(lambda u, y: y**2, 2 * ONES[:, None], 0 * ONES, ONES)


def test_what_is_far_below_the_tolerance_costs_nothing():
    """The tolerance is of 1 + |element|, not of the element: a ripple of 1e-6 is as good as none."""
    found = DormandPrince(1e-4)(lambda u, y: 1e-6 * torch.cos(50 * u)[:, None], 0 * ONES[:, None], 0 * ONES, ONES)
    assert (found.evaluations <= 25).all(), found.evaluations
