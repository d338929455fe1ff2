"""Posterior denoisers: E[x | x_t, y, c] of a measurement y = A(x) + sigma_y n, made of a denoiser E[x | x_t, c].

To draw x given a measurement, a sampler needs no other model: it needs the mean of x given both x_t and y, and then samples
p(x | y, c) as it samples p(x | c). If the law of x given x_t is normal, with the mean m = E[x | x_t, c] of the denoiser
and a covariance C, this mean is known (it is the update of a Kalman filter, with H the derivative of A at m):

    E[x | x_t, y, c] = m + C H^T S^{-1} (y - A(m)),        S = sigma_y^2 + H C H^T.

The true covariance is Tweedie's: C = (sigma_t^2 / alpha_t) dm/dx_t. The methods differ in what they take for C and S:

    dps           C of Tweedie,                   S = a number
    mmps          C of Tweedie,                   S as above, solved by conjugate gradients
    diffpir       C = sigma_t^2 / (lambda alpha_t^2),   S as above: no derivative of the network
    replacement   sigma_y = 0 and C = a number: what was measured takes the place of what m says of it

A posterior is a denoiser around a denoiser, like guidance, and stands outside of it: so the denoiser may be guided, any
sampler may ask it, on any schedule and grid. With sigma_y = inf it is the denoiser itself, to the bit.

The covariance is never formed. Its product with a vector is a derivative backwards through the network (`tweedie`). Where
alpha_t -> 0 it is a vanishing derivative divided by a vanishing alpha_t, of which a network says nothing. So noise levels
sigma_t / alpha_t above `NOISIEST` are asked as if they were that level. C is then exact to NOISIEST^-2, and m differs by
what a NOISIEST-th of the noise says, at times at which alpha_t is smaller still.

Sources:
    Robbins, An Empirical Bayes Approach to Statistics (1956), for what is known as Tweedie's formula
    Efron, Tweedie's Formula and Selection Bias (2011), doi 10.1198/jasa.2011.tm11181
    Daras et al., A Survey on Diffusion Models for Inverse Problems (2024), arXiv 2410.00083
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.flow import length
from ldm.diffusion.posterior.operator import Operator
from ldm.types import Context, Image, Latent, Time

NOISIEST = 10.0
"""The noise level sigma_t / alpha_t above which no covariance is asked of a network."""


@dataclass(frozen=True)
class Measurement:
    """What was measured: y = A(x) + noise n.

    Fields:
        operator: A.
        y: the measurement, one row for each x, (b, c, h', w').
        noise: sigma_y, the standard deviation of its noise, in units of y; 0 is exact, and inf says nothing of x.
    """

    operator: Operator
    y: Image
    noise: float

    def __post_init__(self):
        if not self.noise >= 0:
            raise ValueError(f"noise= is a standard deviation, 0 or more; got {self.noise}")


class Posterior(Denoiser):
    """A denoiser that knows a measurement. A new one writes `given` and `neutral`.

    Arguments:
        denoiser: E[x | x_t, c], perhaps guided.
        measurement: what was measured of each row.

    Attributes:
        neutral: arguments with which it changes nothing, to the last bit; empty where only a measurement of infinite
            noise does that.
    """

    neutral: ClassVar[dict[str, Any]] = {}

    def __init__(self, denoiser: Denoiser, measurement: Measurement):
        nn.Module.__init__(self)
        self.around, self.schedule, self.measurement = denoiser, denoiser.schedule, measurement

    @abstractmethod
    def given(self, denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> Latent:
        """E[x | x_t, y, c], (b, c, h, w), by a denoiser that gives E[x | x_t, c]."""

    @property
    def silent(self) -> bool:
        """Whether the measurement changes nothing."""
        return math.isinf(self.measurement.noise)

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        """E[x | x_t, y, c], (b, c, h, w)."""
        return self.around(x_t, t, c) if self.silent else self.given(self.around, x_t, t, c)

    def within(self, t: float, s: float) -> Denoiser:
        """The same of what its denoiser is between the times t and s."""
        inner = self.around.within(t, s)
        return self if inner is self.around else _Within(self, inner)


class _Within(Denoiser):
    """A posterior of another denoiser that gives the same answers as its own."""

    def __init__(self, posterior: Posterior, inner: Denoiser):
        super().__init__()
        self.posterior, self.inner, self.schedule = posterior, inner, inner.schedule

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        if self.posterior.silent:
            return self.inner(x_t, t, c)
        return self.posterior.given(self.inner, x_t, t, c)


def tweedie(denoiser: Denoiser, x_t: Latent, t: Time, c: Context) -> tuple[Latent, Callable[[Latent], Latent]]:
    """E[x | x_t, c], (b, c, h, w), and v -> Cov[x | x_t, c] v, each product a derivative backwards through the denoiser."""
    schedule = denoiser.schedule
    s = torch.where(schedule.log_snr(t) < -2 * math.log(NOISIEST), _noisiest(denoiser, t), t)
    alpha, sigma = schedule.alpha_sigma(s)
    with torch.enable_grad():
        x_s = (along(length(schedule, s) / length(schedule, t), x_t) * x_t).detach().requires_grad_()
        x = denoiser(x_s, s, c)

    def covariance(v: Latent) -> Latent:
        return along(sigma**2 / alpha, v) * torch.autograd.grad(x, x_s, v, retain_graph=True)[0]

    return x.detach(), covariance


def _noisiest(denoiser: Denoiser, t: Time) -> Time:
    """The time of the noise level NOISIEST, or the schedule's last where that is less noisy, like t (b,)."""
    return denoiser.schedule.time(torch.full_like(t, -2 * math.log(NOISIEST)))
