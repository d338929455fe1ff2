"""Deep sigmoidal functions: monotone functions of one number as mixtures of sigmoids (Huang et al. 2018, section 3.2).

    y = least x + logit( sum_k w_k sigmoid(a_k x + b_k) ),    w a softmax,  a > 0

approximates any increasing function as the number of units grows. Everything is computed from logarithms of the sigmoids and of
their complements, so that no y is infinite.

The term `least` x is not the paper's. Between sigmoids that lie far apart the mixture is flat, and there its inverse
would magnify rounding without bound; so the slope is at least `least`. Likewise a lies within a factor of `steepest` of 1, and
|b| within 10.

The inverse has no formula. As the slope is at least `least`, x is no further from 0 than |y - y(0)| / least, and this bracket is
halved until it is as small as float32 can tell.

What makes it fail: a without bounds (a sigmoid becomes a step, and the density a peak of one example).

Sources:
    Huang et al., Neural Autoregressive Flows (2018), arXiv 1804.00779
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.bijection.transform.base import Numbers, Parameters, Transform

_HALVINGS = 40


class Sigmoidal(Transform):
    """A mixture of sigmoids through a logit.

    Arguments:
        units: number of sigmoids.
        steepest: the greatest a; 1 / steepest is the least.
        least: slope that is added.
    """

    closed = False

    def __init__(self, units: PositiveInt = 8, steepest: PositiveFloat = 20.0, least: PositiveFloat = 0.1):
        self.units, self.steepest, self.least = units, steepest, least
        self.count = 3 * units

    def _units(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """log w, log a and b of each unit, (units, *shape)."""
        weights, a, b = parameters.float().unflatten(0, (3, self.units)).unbind(0)
        limit = math.log(self.steepest)
        b = 10 * torch.tanh(b / 10)
        if self.units > 1:  # at first they lie apart, for equal ones would stay equal
            b = b + torch.linspace(-1, 1, self.units, device=b.device).view(-1, *[1] * (b.ndim - 1))
        return weights.log_softmax(0), limit * torch.tanh(a / limit), b

    def forward(self, x: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        log_w, log_a, b = self._units(parameters)
        inner = log_a.exp() * x.float() + b
        above, below = F.logsigmoid(inner), F.logsigmoid(-inner)
        high, low = (log_w + above).logsumexp(0), (log_w + below).logsumexp(0)
        log_slope = (log_w + log_a + above + below).logsumexp(0) - high - low
        least = torch.full_like(log_slope, math.log(self.least))
        return self.least * x + high - low, torch.logaddexp(log_slope, least)

    @torch.no_grad()
    def _bisected(self, y: Numbers, parameters: Parameters) -> Numbers:
        log_w, log_a, b = self._units(parameters)
        a, both = log_a.exp(), log_w.expand(2, *log_w.shape)

        def value(x: Numbers) -> Numbers:
            inner = a * x + b
            high, low = (both + F.logsigmoid(torch.stack([inner, -inner]))).logsumexp(1)
            return self.least * x + high - low

        high = 1e-3 + 1.001 * (y - value(torch.zeros_like(y))).abs() / self.least
        low = -high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            under = value(middle) < y
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return (low + high) / 2

    def inverse(self, y: Numbers, parameters: Parameters) -> tuple[Numbers, Numbers]:
        """x by bisection, and log dx/dy; its gradient is that of the implicit function."""
        x = self._bisected(y.float(), parameters)
        found, log_slope = self.forward(x, parameters)
        # A step of Newton's method, which moves x by rounding and gives it its derivative.
        x = x - (found - y) * torch.exp(-log_slope.detach())
        return x, -self.forward(x, parameters)[1]
