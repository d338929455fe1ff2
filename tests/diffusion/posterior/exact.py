"""Data of which every posterior is known: a mixture of normals with any covariances, measured linearly.

Given component k, x is N(m_k, C_k). If o = B x + D n is seen of it, with n standard normal, its mean becomes m_k + K (o - B m_k),
K = C_k B^T (B C_k B^T + D D^T)^{-1}, and the component's weight is multiplied by the density of o. Seen are x_t, so that
B = alpha and D = sigma, and perhaps a measurement y below it.
"""

import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.posterior.base import Measurement

SHAPE = (1, 2, 4)


def covariance(size: int = 8) -> torch.Tensor:
    """Of neighbours that say much of each other, and of no two coordinates the same."""
    place = torch.arange(size, dtype=torch.float64)
    scale = 0.4 + 0.1 * place
    return scale[:, None] * scale * torch.exp(-(place[:, None] - place).abs() / 2)


MEAN = torch.linspace(-0.5, 0.7, 8, dtype=torch.float64)


def matrix(operator, shape=SHAPE) -> torch.Tensor:
    """A of a linear operator, (d, n), by what it does to each axis of x."""
    n = torch.Size(shape).numel()
    return operator(torch.eye(n, dtype=torch.float64).view(n, *shape)).flatten(1).T


class Normals(Denoiser):
    """The exact denoiser of a mixture of normals, which may know a measurement (its exact posterior)."""

    def __init__(self, schedule, means=None, covariances=None, weights=None, seen: Measurement | None = None):
        super().__init__()
        self.schedule, self.seen = schedule, seen
        self.means = MEAN[None] if means is None else means
        self.covariances = covariance()[None] if covariances is None else covariances
        self.weights = torch.ones(len(self.means), dtype=torch.float64) if weights is None else weights

    def knowing(self, measurement):
        return Normals(self.schedule, self.means, self.covariances, self.weights, measurement)

    def forward(self, x_t, t, c):
        return torch.stack([self._row(x, time, k) for k, (x, time) in enumerate(zip(x_t, t, strict=True))])

    def _row(self, x_t, t, k):
        (alpha,), (sigma,) = self.schedule.alpha_sigma(t[None].double())
        n = x_t.numel()
        see, o, noise = alpha * torch.eye(n, dtype=torch.float64), x_t.double().flatten(), sigma.expand(n)
        if self.seen is not None:
            a = matrix(self.seen.operator, x_t.shape)
            y = self.seen.y[k].double().flatten()
            see, o = torch.cat([see, a]), torch.cat([o, y])
            noise = torch.cat([noise, torch.full((len(y),), max(self.seen.noise, 1e-7), dtype=torch.float64)])
        answers, logs = [], []
        for mean, spread, weight in zip(self.means, self.covariances, self.weights, strict=True):
            total = see @ spread @ see.T + torch.diag(noise**2)
            left = torch.linalg.solve(total, o - see @ mean)
            answers.append(mean + spread @ see.T @ left)
            logs.append(weight.log() - (o - see @ mean) @ left / 2 - torch.linalg.slogdet(total)[1] / 2)
        return (torch.stack(logs).softmax(0) @ torch.stack(answers)).view_as(x_t).to(x_t.dtype)

    def moments(self):
        """Mean (n,) and covariance (n, n) of x given the measurement of row 0, of one normal."""
        (mean,), (spread,) = self.means, self.covariances
        a = matrix(self.seen.operator)
        gain = (
            spread
            @ a.T
            @ torch.linalg.pinv(a @ spread @ a.T + self.seen.noise**2 * torch.eye(len(a)).double(), rtol=1e-12)
        )
        return mean + gain @ (self.seen.y[0].double().flatten() - a @ mean), spread - gain @ a @ spread


class Normal(Denoiser):
    """What `Normals` is of the one normal, at one time for all rows, quickly."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, t, c):
        (alpha, *_), (sigma, *_) = self.schedule.alpha_sigma(t)
        total = alpha**2 * covariance() + sigma**2 * torch.eye(len(MEAN), dtype=torch.float64)
        gain = alpha * torch.linalg.solve(total, covariance())
        return (MEAN + (x_t.flatten(1) - alpha * MEAN) @ gain).view_as(x_t)
