"""Weightings of the loss: how much an error counts at each noise level.

One prediction has one error, which can be said in three ways: at fixed x_t an error dF of F = a x + b eps is an error
(alpha / det) dF of eps and (sigma / det) dF of x (see parameterization). So a weighting is defined on the error of eps
or of x, once and for every parameterization: w on eps is w SNR on x.

What a weighting does to the sum over noise levels depends on how often the law of times visits each. One that is meant
as an integral over log-SNR, as the likelihood is, is divided by the density p(log-SNR) of the visits, and then does
not depend on the schedule or on the law but by its variance (arXiv 2303.00848).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from ldm.constructed import Constructed
from ldm.diffusion.denoiser import Errors
from ldm.types import Time

Density: TypeAlias = Callable[[], Time]
"""Gives p(log-SNR), (b,), to a weighting that asks: the density, at each example's log-SNR, of the law of times."""


class Weighting(Constructed, nn.Module, ABC):
    """From the squared errors of F, of eps and of x, (b,) each, to the loss of an example."""

    @abstractmethod
    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        """The loss per example, (b,), float32; log_snr (b,)."""


class Uniform(Weighting):
    """w = 1: the simple loss of DDPM (arXiv 2006.11239, equation 14), whatever the network predicts."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps


class Prediction(Weighting):
    """The plain squared error of what the network predicts: customary for v and for flow matching."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.prediction


class SNR(Weighting):
    """SNR^power on the error of x: power 1 is the 'SNR weighting' of arXiv 2303.09556, which is `uniform` on
    eps; 0 is the plain error of x; between, less is left to details.

    Arguments:
        power: of the SNR on the error of x.
    """

    def __init__(self, power: float = 1.0):
        super().__init__()
        self.power = power

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.exp(self.power * log_snr) * errors.x


class MinSNR(Weighting):
    """w = min(SNR, gamma) / SNR (arXiv 2303.09556, section 3.4).

    Arguments:
        gamma: the SNR above which the weight on x grows no more.
    """

    def __init__(self, gamma: PositiveFloat = 5.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return (self.gamma * torch.exp(-log_snr)).clamp(max=1) * errors.eps


class SoftMinSNR(Weighting):
    """w = gamma / (SNR + gamma), min-SNR without its kink (arXiv 2401.11605, with gamma = 4).

    Arguments:
        gamma: the SNR around which the weight on x stops growing.
    """

    def __init__(self, gamma: PositiveFloat = 4.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.sigmoid(math.log(self.gamma) - log_snr) * errors.eps


class Karras(Weighting):
    """(r^2 + s^2) / (r s)^2 on the error of x, r = sigma / alpha and s = `sigma_data` (arXiv 2206.00364, table 1): the
    plain error of what the karras parameterization predicts, for every parameterization.

    Arguments:
        sigma_data: deviation of the data; whitened latents have 1.
    """

    def __init__(self, sigma_data: PositiveFloat = 1.0):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps + errors.x / self.sigma_data**2  # 1 / r^2 on x is 1 on eps


class ELBO(Weighting):
    """w = 1 / (2 p(log-SNR)): the diffusion term of the negative log-likelihood's bound, in nats per dimension
    (arXiv 2107.00630, equation 15; there t is uniform and 1 / p = -dlog_snr/dt)."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps / (2 * density())


class Sigmoid(Weighting):
    """w = sigmoid(bias - log-SNR) / (2 p(log-SNR)) (arXiv 2303.00848; 2410.19324): the bound of
    noisy data, since it falls with log-SNR. A greater bias hears more of fine detail.

    Arguments:
        bias: the log-SNR around which the weight falls.
    """

    def __init__(self, bias: float = 2.0):
        super().__init__()
        self.bias = bias

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.sigmoid(self.bias - log_snr) * errors.eps / (2 * density())


class Learned(Weighting):
    """L exp(-u) + u around another weighting's L, with u(log-SNR) learnt: then u is log E[L] at each noise level, and all
    levels count alike (arXiv 2312.02696, equations 14 to 21; 1705.07115). u is a cosine series over [-20, 20] that
    begins at 0; the paper's random features do the same with more of them.

    Arguments:
        weighting: whose L is learnt around.
        terms: of the cosine series.
    """

    def __init__(self, weighting: Weighting, terms: PositiveInt = 32):
        super().__init__()
        self.weighting = weighting
        self.series = nn.Parameter(torch.zeros(terms))

    def log_variance(self, log_snr: Time) -> Time:
        """u of log-SNR, (b,)."""
        place = (log_snr.clamp(-20, 20) + 20) / 40
        k = torch.arange(len(self.series), device=log_snr.device)
        return (self.series * torch.cos(math.pi * k * place[:, None])).sum(1)

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        u = self.log_variance(log_snr)
        return self.weighting(errors, log_snr, density) * torch.exp(-u) + u
