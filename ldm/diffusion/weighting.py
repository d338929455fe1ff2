"""The loss of a diffusion model, and its weightings: how much an error counts at each noise level.

The second stage minimises, over the parameters of the network F,

    L = E_{t, x, eps} [ w_F(log SNR(t)) |F(x_t, log SNR(t), c) - (a(t) x + b(t) eps)|^2 ],    x_t = alpha(t) x + sigma(t) eps.

Here x is a latent of the data and c its context, eps is standard normal noise of the same shape, t is drawn from the law
of times (ldm.diffusion.time), alpha and sigma are the noise schedule (ldm.diffusion.schedule), a and b say what the
network predicts (ldm.diffusion.parameterization), SNR = alpha^2 / sigma^2, and |.|^2 is the mean over the numbers of a
latent. The weighting is w_F.

A weighting is written here for the error of eps or of x, and so only once for all parameterizations. With
det = alpha b - sigma a, an error dF of the prediction at a fixed x_t means an error (alpha / det) dF of eps and an error
(sigma / det) dF of x. A weight w on the squared error of eps is therefore the weight w SNR on the squared error of x, and
w_F = w (alpha / det)^2. Below, w is the weight on the squared error of eps wherever nothing else is said.

The law of times decides how often each noise level is visited. If p is the density of log SNR under that law, then

    L = integral of p(lambda) w_F(lambda) E_{x, eps} |F - (a x + b eps)|^2 over lambda = log SNR,

so in expectation only the product of p and the weighting matters, and p by itself decides the variance of the gradients.
A weighting that is meant as an integral over log SNR, as that of the likelihood is, divides by p. Its expectation then
depends neither on the schedule nor on the law of times (Kingma and Gao 2023).

Sources:
    Kingma and Gao, Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation (2023),
        arXiv 2303.00848
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (2023), arXiv 2303.09556
    Crowson et al., Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers
        (2024), arXiv 2401.11605
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv 2206.00364
    Kingma et al., Variational Diffusion Models (2021), arXiv 2107.00630
    Hoogeboom et al., Simpler Diffusion (SiD2): 1.5 FID on ImageNet512 with Pixel-Space Diffusion (2024),
        arXiv 2410.19324
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2023), arXiv 2312.02696
    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics (2017),
        arXiv 1705.07115
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
"""A function without arguments that returns p(log SNR), (b,): the density of the law of times at each example's log SNR.
It is a function because only some weightings need the density."""


class Weighting(Constructed, nn.Module, ABC):
    """Turns the squared errors of F, of eps and of x into the loss of each example. A new one writes `forward`."""

    @abstractmethod
    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        """The loss of each example, (b,), float32.

        Arguments:
            errors: the mean squared errors of the network's prediction.
            log_snr: log SNR of each example, (b,).
            density: returns the density of log SNR under the law of times, (b,).
        """


class Uniform(Weighting):
    """w = 1: the simple loss of DDPM (Ho et al. 2020, equation 14), whatever the network predicts."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps


class Prediction(Weighting):
    """w_F = 1: the plain squared error of what the network predicts, customary for v and for flow matching."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.prediction


class SNR(Weighting):
    """The weight SNR^power on the squared error of x.

    Power 1 is the "SNR weighting" of Hang et al. 2023 and equals `uniform`. Power 0 is the plain error of
    x. A power between them gives less weight to low noise, where details are made, than `uniform` does.

    Arguments:
        power: exponent of the SNR.
    """

    def __init__(self, power: float = 1.0):
        super().__init__()
        self.power = power

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.exp(self.power * log_snr) * errors.x


class MinSNR(Weighting):
    """w = min(SNR, gamma) / SNR (Hang et al. 2023, section 3.4).

    Arguments:
        gamma: the SNR above which the weight on the error of x no longer grows.
    """

    def __init__(self, gamma: PositiveFloat = 5.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return (self.gamma * torch.exp(-log_snr)).clamp(max=1) * errors.eps


class SoftMinSNR(Weighting):
    """w = gamma / (SNR + gamma): min-SNR without its kink (Crowson et al. 2024, with gamma = 4).

    Arguments:
        gamma: the SNR around which the weight on the error of x stops growing.
    """

    def __init__(self, gamma: PositiveFloat = 4.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.sigmoid(math.log(self.gamma) - log_snr) * errors.eps


class Karras(Weighting):
    """The weight (r^2 + s^2) / (r s)^2 on the squared error of x, with r = sigma / alpha and s = `sigma_data` (Karras et
    al. 2022, table 1). It is the plain squared error of what the `karras` parameterization predicts, and can be used with
    every parameterization.

    Arguments:
        sigma_data: standard deviation of the data; whitened latents have 1.
    """

    def __init__(self, sigma_data: PositiveFloat = 1.0):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps + errors.x / self.sigma_data**2  # the weight 1 / r^2 on x is the weight 1 on eps


class ELBO(Weighting):
    """w = 1 / (2 p(log SNR)): the diffusion term of the variational bound on the negative log-likelihood, in nats per
    dimension (Kingma et al. 2021, equation 15, where t is uniform and so 1 / p = -d log SNR / dt)."""

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return errors.eps / (2 * density())


class Sigmoid(Weighting):
    """w = sigmoid(bias - log SNR) / (2 p(log SNR)) (Kingma and Gao 2023; Hoogeboom et al. 2024).

    It falls as log SNR grows, and such a weighting is the variational bound of data with added noise (Kingma and Gao
    2023). A greater bias gives more weight to low noise levels, where fine detail is made.

    Arguments:
        bias: the log SNR at which the weight has fallen to half.
    """

    def __init__(self, bias: float = 2.0):
        super().__init__()
        self.bias = bias

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return torch.sigmoid(self.bias - log_snr) * errors.eps / (2 * density())


class Learned(Weighting):
    """l exp(-u) + u, where l is the loss of another weighting and u(log SNR) is learnt with the network (Karras et al.
    2023, equations 14 to 21; Kendall et al. 2017).

    The minimum over u is at u = log E[l] for each noise level, so that all levels then contribute alike to the gradients.
    u is a cosine series of log SNR on [-20, 20] and begins at 0. The paper takes random Fourier features for the same
    purpose.

    Arguments:
        weighting: the weighting whose loss is l.
        terms: number of terms of the cosine series.
    """

    def __init__(self, weighting: Weighting, terms: PositiveInt = 32):
        super().__init__()
        self.weighting = weighting
        self.series = nn.Parameter(torch.zeros(terms))

    def log_variance(self, log_snr: Time) -> Time:
        """u(log SNR), the learnt logarithm of the mean loss, (b,) of (b,)."""
        place = (log_snr.clamp(-20, 20) + 20) / 40
        k = torch.arange(len(self.series), device=log_snr.device)
        return (self.series * torch.cos(math.pi * k * place[:, None])).sum(1)

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        u = self.log_variance(log_snr)
        return self.weighting(errors, log_snr, density) * torch.exp(-u) + u
