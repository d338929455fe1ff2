"""Rational-quadratic splines: increasing functions that bend between knots, with an inverse in closed form.

The interval [-bound, bound] is divided into K bins. Knots (x_k, y_k) increase and end at the corners of the square, and the
slope at them is d_k > 0, 1 at the ends, beyond which the function is the identity. In bin k, with s = (y_{k+1} - y_k) /
(x_{k+1} - x_k) and xi = (x - x_k) / (x_{k+1} - x_k),

    y = y_k + (y_{k+1} - y_k) (s xi^2 + d_k xi (1 - xi)) / (s + (d_{k+1} + d_k - 2 s) xi (1 - xi))

(Durkan et al. 2019, equation 4, after Gregory and Delbourgo 1982). The derivative is equation 5; the inverse is the root of
a quadratic equation (equations 6 to 8), taken in the form that loses no digits where its leading coefficient is small.

The K widths and heights are softmaxes of the first and the next K parameters, the K - 1 inner slopes softplus of the last ones,
each with a least value, since a bin without width or slope cannot be inverted. Parameters 0 are the identity.

Numbers beyond the bound only pass through: latents should be about as large as the bound, which actnorm sees to. Fine bins
memorise: a narrow bin is a peak of density as high as 1 / least slope.

Sources:
    Durkan et al., Neural Spline Flows (2019), arXiv 1906.04032
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.bijection.transform.base import Numbers, Parameters, Transform


class _Bin(NamedTuple):
    """The bin of each number: its left end, width, lower end and height, and the slopes at both ends."""

    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor
    left: Tensor
    right: Tensor


class RationalQuadratic(Transform):
    """A spline of rational functions of degree two on [-bound, bound], and the identity outside.

    Arguments:
        bins: K.
        bound: half of the side of the square that the spline bends in.
        min_width, min_height: the least width and height of a bin, as shares of the square's side.
        min_slope: the least slope at a knot.
    """

    def __init__(
        self,
        bins: PositiveInt = 8,
        bound: PositiveFloat = 3.0,
        min_width: PositiveFloat = 1e-3,
        min_height: PositiveFloat = 1e-3,
        min_slope: PositiveFloat = 1e-3,
    ):
        if bins * max(min_width, min_height) >= 1 or min_slope >= 1:
            raise ValueError(
                f"{bins} bins of width {min_width} and height {min_height} at least do not fit into a square of side 1, or "
                f"the least slope {min_slope} is not below 1: take smaller ones"
            )
        self.bins, self.bound, self.count = bins, bound, 3 * bins - 1
        self.min_width, self.min_height, self.min_slope = min_width, min_height, min_slope

    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        inside = x.abs() < self.bound
        xs, ys, slopes = self._knots(parameters)
        at = x.clamp(-self.bound, self.bound)
        b = _bin(xs, at, xs, ys, slopes)
        xi = (at - b.x) / b.width
        y, log_slope = _value(b, xi)
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        inside = y.abs() < self.bound
        xs, ys, slopes = self._knots(parameters)
        at = y.clamp(-self.bound, self.bound)
        b = _bin(ys, at, xs, ys, slopes)
        xi = _root(b, at - b.y)
        log_slope = _value(b, xi)[1]
        return torch.where(inside, b.x + xi * b.width, y), torch.where(inside, -log_slope, 0.0)

    def _knots(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and slope of the knots, (K + 1, *shape) each."""
        widths, heights, slopes = parameters.split([self.bins, self.bins, self.bins - 1])
        # softplus of this is 1 - min_slope, so that parameters 0 give slopes 1
        inner = self.min_slope + F.softplus(slopes + math.log(math.expm1(1 - self.min_slope)))
        ones = torch.ones_like(widths[:1])
        return (
            self._along(widths, self.min_width),
            self._along(heights, self.min_height),
            torch.cat([ones, inner, ones]),
        )

    def _along(self, raw: Tensor, least: float) -> Tensor:
        """Knots from -bound to bound whose distances are shares of at least `least`."""
        shares = least + (1 - least * self.bins) * raw.softmax(0)
        ends = torch.zeros_like(raw[:1])
        inner = shares[:-1].cumsum(0)
        return self.bound * (2 * torch.cat([ends, inner, ends + 1]) - 1)


def _bin(knots: Tensor, at: Tensor, xs: Tensor, ys: Tensor, slopes: Tensor) -> _Bin:
    """The bin in which each of `at` lies between `knots`, which are the xs or the ys."""
    index = (at >= knots[1:-1]).sum(0, keepdim=True)

    def taken(values: Tensor, more: int = 0) -> Tensor:
        return values.gather(0, index + more)[0]

    x, y = taken(xs), taken(ys)
    return _Bin(x, taken(xs, 1) - x, y, taken(ys, 1) - y, taken(slopes), taken(slopes, 1))


def _value(b: _Bin, xi: Tensor) -> tuple[Tensor, Tensor]:
    """y and log dy/dx at the share xi of a bin."""
    s, between = b.height / b.width, xi * (1 - xi)
    below = s + (b.left + b.right - 2 * s) * between
    y = b.y + b.height * (s * xi.square() + b.left * between) / below
    above = b.right * xi.square() + 2 * s * between + b.left * (1 - xi).square()
    return y, 2 * s.log() + above.log() - 2 * below.log()


def _root(b: _Bin, rise: Tensor) -> Tensor:
    """The share xi of a bin at which y is `rise` above its lower end."""
    s, bend = b.height / b.width, b.left + b.right - 2 * b.height / b.width
    square = b.height * (s - b.left) + rise * bend
    linear = b.height * b.left - rise * bend
    constant = -s * rise
    root = (linear.square() - 4 * square * constant).clamp(min=0).sqrt()
    return (2 * constant / (-linear - root)).clamp(0, 1)
