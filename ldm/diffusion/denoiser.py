"""Denoisers: E[x | x_t, c], the one thing that samplers, guidance and likelihoods need to know of a model.

`NetworkDenoiser` makes one of a backbone F(c_in x_t, log-SNR, c): x = (b x_t - sigma F) / det (see parameterization).
c_in = 1 / sqrt(alpha^2 + sigma^2) gives the backbone inputs of unit variance, as latents have (arXiv 2206.00364, table 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time

FARTHEST = 20.0
"""The log-SNR, of either sign, beyond which a network is told no more."""


def along(value: Time, x: Latent) -> Tensor:
    """(b,) shaped to multiply (b, c, h, w), in at least float32."""
    return value.view(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module, ABC):
    schedule: Schedule

    @abstractmethod
    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        """E[x | x_t, c], (b, c, h, w)."""

    def within(self, t: float, s: float) -> Denoiser:
        """What answers as this denoiser does at all times between t and s. The host knows t and s, so guidance that is
        limited in time can leave out what it does not need there, and no step of a sampler waits for a device."""
        return self


class Rescheduled(Denoiser):
    """A denoiser of one schedule as one of another, to sample on a schedule that it was not trained on.

    E[x | x_t] depends on the direction of (alpha, sigma) only: x_t is brought to the length that it has in the other
    schedule, at the time of the same log-SNR. Beyond the other's ends, its nearest end answers.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule):
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        s = self.denoiser.schedule.time(self.schedule.log_snr(t)).clamp(min=1e-5).where(t > 0, 0)
        scale = torch.hypot(*self.denoiser.schedule.alpha_sigma(s)) / torch.hypot(*self.schedule.alpha_sigma(t))
        return self.denoiser(along(scale, x_t) * x_t, s, c)


@dataclass(frozen=True)
class Errors:
    """The mean squared error of each example's prediction F, (b,), and what it is of eps and of x, at fixed x_t."""

    prediction: Time
    eps: Time
    x: Time


class NetworkDenoiser(Denoiser):
    def __init__(self, backbone: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.backbone, self.schedule, self.parameterization = backbone, schedule, parameterization

    def _predict(self, x_t: Latent, alpha: Time, sigma: Time, c: Context) -> Latent:
        """F, as the network gives it, in float32."""
        c_in = (alpha**2 + sigma**2).rsqrt()
        # A schedule may end at pure noise or data; the network is told a finite number all the same.
        log_snr = (2 * (alpha.log() - sigma.log())).clamp(-FARTHEST, FARTHEST)
        return self.backbone(along(c_in, x_t) * x_t, log_snr, c).float()

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        alpha, sigma = self.schedule.alpha_sigma(t)
        a, b = self.parameterization.pair(self.schedule, t)
        det = alpha * b - sigma * a
        clean = t <= 0  # x_0 is x: nothing is left to predict, though 0 / 0 would say so for some
        c_skip, c_out = torch.where(clean, 1, b / det), torch.where(clean, 0, -sigma / det)
        return along(c_skip, x_t) * x_t + along(c_out, x_t) * self._predict(x_t, alpha, sigma, c)

    def errors(self, x: Latent, eps: Latent, t: Time, c: Context) -> Errors:
        """The errors of the prediction at x_t = alpha x + sigma eps, t > 0.

        The target is formed from (a, b); x_t subtracted from something would lose its digits near t = 0 in bf16.
        """
        with torch.autocast(x.device.type, enabled=False):
            alpha, sigma = self.schedule.alpha_sigma(t)
            a, b = self.parameterization.pair(self.schedule, t)
            x_t = along(alpha, x) * x + along(sigma, x) * eps
            target = along(a, x) * x + along(b, x) * eps
        error = (self._predict(x_t, alpha, sigma, c) - target).square().flatten(1).mean(1)
        det = alpha * b - sigma * a
        return Errors(error, (alpha / det).square() * error, (sigma / det).square() * error)
