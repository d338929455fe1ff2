"""Denoisers: E[x | x_t, c], the one thing that samplers, guidance and likelihoods need to know of a model.

`NetworkDenoiser` makes one of a backbone F(c_in x_t, log-SNR, c): x = (b x_t - sigma F) / det (see parameterization).
c_in = 1 / sqrt(alpha^2 + sigma^2) gives the backbone inputs of unit variance, as latents have (arXiv 2206.00364, table 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ldm.diffusion.parameterization import Parameterization
from ldm.diffusion.schedule import Schedule
from ldm.types import Context, Latent, Time


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


class NetworkDenoiser(Denoiser):
    def __init__(self, backbone: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.backbone, self.schedule, self.parameterization = backbone, schedule, parameterization

    def predict(self, x_t: Latent, t: Time, c: Context) -> Latent:
        """F, as the network gives it, in float32."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        c_in = (alpha**2 + sigma**2).rsqrt()
        # A schedule may end at pure noise or data; the network is told a finite number all the same.
        log_snr = self.schedule.log_snr(t).clamp(-20, 20)
        return self.backbone(along(c_in, x_t) * x_t, log_snr, c).float()

    def forward(self, x_t: Latent, t: Time, c: Context) -> Latent:
        a, b = self.parameterization.pair(self.schedule, t)
        alpha, sigma = self.schedule.alpha_sigma(t)
        det = alpha * b - sigma * a
        prediction = self.predict(x_t, t, c)
        return along(b / det, x_t) * x_t - along(sigma / det, x_t) * prediction

    def loss(self, x: Latent, eps: Latent, t: Time, c: Context) -> tuple[Time, Time]:
        """Mean squared error of F per example, (b,), and (alpha / det)^2, (b,), which makes it an error of eps.

        The target is formed from (a, b); x_t subtracted from something would lose its digits near t = 0 in bf16.
        """
        with torch.autocast(x.device.type, enabled=False):
            alpha, sigma = self.schedule.alpha_sigma(t)
            a, b = self.parameterization.pair(self.schedule, t)
            x_t = along(alpha, x) * x + along(sigma, x) * eps
            target = along(a, x) * x + along(b, x) * eps
        error = (self.predict(x_t, t, c) - target).square().flatten(1).mean(1)
        return error, (alpha / (alpha * b - sigma * a)).square()
