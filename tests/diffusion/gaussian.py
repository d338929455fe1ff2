"""Data of which everything is known: N(m, s^2) in every coordinate.

x_t is N(alpha m, alpha^2 s^2 + sigma^2), so E[x | x_t] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x_t - alpha m), and the
probability-flow ODE keeps (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2) constant.
"""

import torch

from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.schedule import Schedule


class GaussianDenoiser(Denoiser):
    def __init__(self, schedule: Schedule, mean: float, std: float):
        super().__init__()
        self.schedule, self.mean, self.std = schedule, mean, std

    def forward(self, x_t, t, c):
        alpha, sigma = (along(v, x_t) for v in self.schedule.alpha_sigma(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def flow(self, x_t, t, s):
        """Where the ODE carries x_t from time t to time s."""
        (a_t, s_t), (a_s, s_s) = self.schedule.alpha_sigma(t), self.schedule.alpha_sigma(s)
        spread_t, spread_s = (a_t**2 * self.std**2 + s_t**2).sqrt(), (a_s**2 * self.std**2 + s_s**2).sqrt()
        return along(a_s, x_t) * self.mean + along(spread_s / spread_t, x_t) * (x_t - along(a_t, x_t) * self.mean)


def at(t: float, n: int) -> torch.Tensor:
    return torch.full((n,), t, dtype=torch.float64)
