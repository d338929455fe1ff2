"""Data of which everything is known and which is not Gaussian: a mixture of normals in the plane.

x is drawn from sum_k w_k N(m_k, s_k^2 I), as a latent (b, 2, 1, 1), so x_t = alpha x + sigma eps has the density
sum_k w_k N(alpha m_k, v_k I), v_k = alpha^2 s_k^2 + sigma^2. With r_k the posterior probability of component k given x_t,

    score    = sum_k r_k (alpha m_k - x_t) / v_k
    E[x|x_t] = sum_k r_k (m_k + alpha s_k^2 / v_k (x_t - alpha m_k)).

Arithmetic is float64 and results have the type of x_t. At t = 0 all are those of x itself.
"""

import math

import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.schedule import Schedule

WEIGHTS, MEANS, STDS = (0.5, 0.3, 0.2), ((1.2, 0.4), (-0.9, 0.8), (-0.2, -1.3)), (0.3, 0.5, 0.2)


class MixtureDenoiser(Denoiser):
    """The exact denoiser of the mixture; also its samples, density and score at any time."""

    def __init__(self, schedule: Schedule, weights=WEIGHTS, means=MEANS, stds=STDS):
        super().__init__()
        self.schedule = schedule
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64), persistent=False)
        self.register_buffer("means", torch.tensor(means, dtype=torch.float64), persistent=False)
        self.register_buffer("stds", torch.tensor(stds, dtype=torch.float64), persistent=False)

    def draw(self, n, generator=None):
        """x (n, 2, 1, 1), float64."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return (self.means[k] + self.stds[k, None] * z)[..., None, None]

    def _parts(self, x_t, t):
        """x_t - alpha m_k (b, k, 2), v_k (b, k), alpha (b, 1) and log(w_k N(x_t; alpha m_k, v_k I)) (b, k)."""
        alpha, sigma = (value.double()[:, None] for value in self.schedule.alpha_sigma(t))
        away = x_t.double().flatten(1)[:, None] - alpha[..., None] * self.means
        spread = (alpha * self.stds) ** 2 + sigma**2
        log_joint = self.weights.log() - away.square().sum(-1) / (2 * spread) - (2 * math.pi * spread).log()
        return away, spread, alpha, log_joint

    def forward(self, x_t, t, c):
        away, spread, alpha, log_joint = self._parts(x_t, t)
        each = self.means + (alpha * self.stds**2 / spread)[..., None] * away
        return (log_joint.softmax(1)[..., None] * each).sum(1).view_as(x_t).to(x_t.dtype)

    def log_density(self, x_t, t):
        """log p_t(x_t) in nats, (b,)."""
        return self._parts(x_t, t)[3].logsumexp(1).to(x_t.dtype)

    def score(self, x_t, t):
        """The gradient of log p_t at x_t, shaped like x_t."""
        away, spread, _, log_joint = self._parts(x_t, t)
        return -(log_joint.softmax(1)[..., None] * away / spread[..., None]).sum(1).view_as(x_t).to(x_t.dtype)
