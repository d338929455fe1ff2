"""A backbone that predicts what the exact denoiser of the mixture would, whatever the parameterization."""

import torch

from ldm.types import Context
from tests.diffusion.mixture import MixtureDenoiser


class ExactNetwork(torch.nn.Module):
    """F of the exact denoiser, of the mixture or another one, its answer multiplied by `factor`, plus `theta` (b, 3) times
    (1, 0), (0, 1) and z."""

    def __init__(self, schedule, parameterization, factor=1.0, denoiser=None):
        super().__init__()
        self.denoiser = denoiser or MixtureDenoiser(schedule)
        self.parameterization, self.factor = parameterization, factor
        self.theta = None

    def forward(self, z, log_snr, c):
        schedule = self.denoiser.schedule
        t = schedule.time(log_snr.double())
        (alpha, sigma), (a, b) = schedule.alpha_sigma(t), self.parameterization.pair(schedule, t)
        alpha, sigma, a, b = (value.view(-1, 1, 1, 1) for value in (alpha, sigma, a, b))
        x_t = z.double() * torch.hypot(alpha, sigma)
        x = self.factor * self.denoiser(x_t, t, Context())
        found = (b * x_t - (alpha * b - sigma * a) * x) / sigma
        if self.theta is None:
            return found
        first, second, third = self.theta[..., None, None, None].unbind(1)
        return found + torch.cat([first, second], 1) + third * z
