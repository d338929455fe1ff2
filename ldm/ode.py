"""Solvers of the ordinary differential equation dy/du = f(u, y) for a batch of independent rows.

`RungeKutta` is the classical Runge-Kutta method of fourth order with fixed steps. `DormandPrince` is the embedded pair of
orders 5 and 4 of Dormand and Prince, A Family of Embedded Runge-Kutta Formulae (1980), doi 10.1016/0771-050X(80)90013-3. It
has a step size of its own for every row, so that no row depends on the others. After each step the host reads the errors,
and a device has to wait for that. Both can be differentiated, at the steps that they took: no gradient flows through the
choice of step sizes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

Slope = Callable[[Float[Tensor, " b"], Float[Tensor, "b n"]], Float[Tensor, "b n"]]
"""f(u, y) with u (b,) and y (b, n): the derivative dy/du, (b, n)."""


@dataclass(frozen=True)
class Solution:
    """The result of a solver.

    Fields:
        y: the solution at the end, (b, n).
        evaluations: how often f was evaluated for each row, (b,).
        step: the step size to try first if the solution is continued, (b,).
    """

    y: Tensor
    evaluations: Tensor
    step: Tensor


class Solver(ABC):
    """A method that solves dy/du = f(u, y). A new one writes `__call__`.

    Attributes:
        adaptive: whether the number of evaluations depends on f and y.
    """

    adaptive: ClassVar[bool]

    @abstractmethod
    def __call__(
        self, f: Slope, y: Float[Tensor, "b n"], start: Float[Tensor, " b"], end: Float[Tensor, " b"]
    ) -> Solution:
        """The solution at u = `end`, (b,), that has the value `y`, (b, n), at u = `start`, (b,)."""


class RungeKutta(Solver):
    """The classical Runge-Kutta method of fourth order.

    Arguments:
        steps: number of steps of equal size, of four evaluations each.
    """

    adaptive = False

    def __init__(self, steps: PositiveInt = 50):
        self.steps = steps

    def __call__(
        self, f: Slope, y: Float[Tensor, "b n"], start: Float[Tensor, " b"], end: Float[Tensor, " b"]
    ) -> Solution:
        h = (end - start) / self.steps
        half, whole = (h / 2)[:, None], h[:, None]
        for k in range(self.steps):
            u = start + k * h
            k_1 = f(u, y)
            k_2 = f(u + h / 2, y + half * k_1)
            k_3 = f(u + h / 2, y + half * k_2)
            k_4 = f(u + h, y + whole * k_3)
            y = y + whole / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        return Solution(y, torch.full_like(start, 4 * self.steps), h)


_NODES = (0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0)
_WEIGHTS = (
    (0.2,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the fifth order; its slope begins the next step
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class DormandPrince(Solver):
    """The method of Dormand and Prince with adaptive steps.

    Arguments:
        tolerance: of the error of every element of y in a step, in units of 1 + |element|.
        steps: the greatest number of steps. If it does not suffice, f is not smooth or the tolerance is too small for its
            precision, and ArithmeticError is raised.
    """

    adaptive = True

    def __init__(self, tolerance: PositiveFloat = 1e-5, steps: PositiveInt = 10_000):
        self.tolerance, self.steps = tolerance, steps

    def __call__(
        self,
        f: Slope,
        y: Float[Tensor, "b n"],
        start: Float[Tensor, " b"],
        end: Float[Tensor, " b"],
        first: Float[Tensor, " b"] | None = None,
    ) -> Solution:
        """The solution at `end`.

        Arguments:
            first: the step size to try first, (b,); by default a twentieth of the distance.
        """
        way = end - start
        step = way / 20
        if first is not None:
            step = torch.where(first == 0, step, first.abs() * way.sign())
        u, k_1 = start, f(start, y)
        evaluations = torch.ones_like(start)
        for _ in range(self.steps):
            left = end - u
            going = left != 0
            if not going.any():
                return Solution(y, evaluations, step)
            last = step.abs() >= left.abs()
            h = torch.where(last, left, step)
            new, k_7, error = self._step(f, u, y, h, k_1)
            good = going & (error <= 1)
            factor = torch.where(error > 0, 0.9 * error.clamp(min=1e-10) ** -0.2, 5).clamp(0.2, 5)
            # The last step may be shortened to meet the end; the step before shortening is the better guess for the next.
            proposal = torch.where(last & good & (step.abs() > h.abs() * factor), step, h * factor)
            step = torch.where(going, proposal, step)
            evaluations = evaluations + 6 * going
            y, k_1 = torch.where(good[:, None], new, y), torch.where(good[:, None], k_7, k_1)
            u = torch.where(good, torch.where(last, end, u + h), u)
        raise ArithmeticError(f"no solution within {self.steps} steps at tolerance {self.tolerance}; try a greater one")

    def _step(self, f: Slope, u: Tensor, y: Tensor, h: Tensor, k_1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y after a step of size h, dy/du there, and the greatest error of each row in units of the tolerated error."""
        slopes, new = [k_1], y
        for node, weights in zip(_NODES, _WEIGHTS, strict=True):
            new = y + h[:, None] * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)
            slopes.append(f(u + node * h, new))
        error = h[:, None] * sum(w * k for w, k in zip(_ERROR, slopes, strict=True) if w)
        scale = self.tolerance * (1 + torch.maximum(y.abs(), new.abs()))
        # A step with a result that is not finite counts as one with an infinite error.
        return new, slopes[-1], (error / scale).detach().abs().amax(1).nan_to_num(torch.inf)
