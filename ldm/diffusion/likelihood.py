"""Likelihoods of diffusion models, in nats for each example.

`Flow` gives the density of the probability-flow ODE (Song et al. 2020, equation 39), in the coordinates y and phi of
ldm.diffusion.flow, for latents of d numbers:

    log p(y_0) = log p(y_1) + int_{phi_0}^{phi_1} div dy/dphi dphi,   div = (d cos(phi) - tr dE[x | .]/dy) / sin(phi).

The distribution at the noisy end is the one that samples are started from, y_1 ~ N(0, 1), that is
x_1 ~ N(0, alpha(1)^2 + sigma(1)^2). It has the mean and the variance of x_1 for whitened data. At the other end some noise
has to remain, because at t = 0 the denoiser is the identity and says nothing of the density. So log p(x) is the density
of x_t / alpha = x + (sigma / alpha) eps at t = `start`, evaluated at x, with the Jacobian of alpha. This is the density of
the data blurred by sigma / alpha; it tends to the density of the data, where the data have one.

`bound` is the variational bound of DDPM (Ho et al. 2020, equation 5) along any times 1 = t_0 > ... > t_{n-1} > t_n = 0,
with the densities p(x_s | x_t) = q(x_s | x_t, x = E[x | x_t]) (Kingma et al. 2021, equations 11 to 13):

    -log p(x) <= 1/2 [K + sum_{i < n-1} (SNR(t_{i+1}) - SNR(t_i)) |x - x_i|^2 + SNR(t_{n-1}) |x - x_{n-1}|^2]
                 + d/2 log(2 pi / SNR(t_{n-1})),   x_i = E[x | x_{t_i}],
    K = (d + SNR(t_0) |x|^2) / (1 + SNR(t_0)) - d + d log(1 + SNR(t_0)),

in expectation over x_{t_i}. K / 2 is the divergence of q(x_1 | x) from N(0, alpha^2 + sigma^2) at t_0, the sum is over
the steps, and the remaining terms are those of the last step, with p(x | x_t) = N(E[x | x_t], (sigma / alpha)^2).

Sources:
    Song et al., Score-Based Generative Modeling through Stochastic Differential Equations (2020), arXiv 2011.13456
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Kingma et al., Variational Diffusion Models (2021), arXiv 2107.00630
    Grathwohl et al., FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (2018),
        arXiv 1810.01367
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ldm.constructed import Constructed
from ldm.diffusion.denoiser import Denoiser, along
from ldm.diffusion.flow import angle, length, velocity
from ldm.ode import DormandPrince, Solver
from ldm.random import Random
from ldm.types import Context, Latent, Time


class Divergence(Constructed, ABC):
    """A way to compute the trace of a Jacobian J: `weight` times the sum of e . J e over vectors e, the probes.

    Attributes:
        kind: whether the trace is exact or an unbiased estimate.
        weight: the factor of the sum.
    """

    kind: Literal["exact", "estimate"]
    weight: float = 1.0

    @abstractmethod
    def probes(self, y: Latent, random: Random) -> Float[Tensor, "n b z lh lw"]:
        """The n probes for latents y (b, c, h, w), (n, b, c, h, w). They are drawn once and kept along the whole path, so
        that what is solved is an ODE and not a stochastic equation."""


class Exact(Divergence):
    """The exact trace: every axis is a probe, so that it takes as many backward passes as a latent has numbers."""

    kind = "exact"

    def probes(self, y: Latent, random: Random) -> Float[Tensor, "n b z lh lw"]:
        axes = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device)
        return axes.view(-1, 1, *y.shape[1:]).expand(-1, len(y), *y.shape[1:])


class Hutchinson(Divergence):
    """Hutchinson's unbiased estimate of the trace: the mean over probes of random signs (Grathwohl et al. 2018, section 3.1).

    Arguments:
        probes: number of probes, each of which costs a backward pass.
    """

    kind = "estimate"

    def __init__(self, probes: PositiveInt = 1):
        self.count, self.weight = probes, 1 / probes

    def probes(self, y: Latent, random: Random) -> Float[Tensor, "n b z lh lw"]:
        shape = tuple(y.shape[1:])
        signs = [random.uniform(f"probe {k}", shape) < 0.5 for k in range(self.count)]
        return 2 * torch.stack(signs).to(y) - 1


class Flow(Constructed):
    """The density of a diffusion model by its probability-flow ODE.

    Arguments:
        divergence: how the divergence is computed: exactly, or by an unbiased estimate.
        solver: solver of the ODE: DormandPrince for a tolerance, RungeKutta for fixed steps.
        start: the time t of the lower end, at which the data are blurred by sigma / alpha.
    """

    def __init__(self, divergence: Divergence, solver: Solver | None = None, start: PositiveFloat = 1e-3):
        self.divergence, self.solver, self.start = divergence, solver or DormandPrince(1e-5), start
        self.kind = divergence.kind

    @torch.no_grad()
    def log_prob(self, denoiser: Denoiser, x: Latent, c: Context, random: Random) -> Time:
        """log p(x | c) in nats, (b,), of latents x (b, c, h, w); `random` draws the probes."""
        schedule, size = denoiser.schedule, x[0].numel()
        ones = torch.ones(len(x), dtype=x.dtype, device=x.device)
        first, last = self.start * ones, ones
        alpha, scale = schedule.alpha_sigma(first)[0], length(schedule, first)
        y = along(alpha / scale, x) * x
        probes = self.divergence.probes(y, random)

        def slope(phi: Tensor, state: Tensor) -> Tensor:
            dy, div = self._slope(denoiser, state[:, :-1].view_as(x), phi, c, probes)
            return torch.cat([dy.flatten(1), div[:, None]], 1)

        state = torch.cat([y.flatten(1), torch.zeros_like(ones)[:, None]], 1)
        end = self.solver(slope, state, angle(schedule, first), angle(schedule, last)).y
        prior = -(end[:, :-1].square().sum(1) + size * math.log(2 * math.pi)) / 2
        return prior + end[:, -1] + size * (alpha / scale).log()

    def _slope(
        self, denoiser: Denoiser, y: Latent, phi: Time, c: Context, probes: Float[Tensor, "n b z lh lw"]
    ) -> tuple[Latent, Time]:
        """dy/dphi, (b, c, h, w), and its divergence, (b,)."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            dy = velocity(denoiser, y, phi, c)
            products = [torch.autograd.grad(dy, y, probe, retain_graph=True)[0] for probe in probes]
        trace = sum((product * probe).flatten(1).sum(1) for product, probe in zip(products, probes, strict=True))
        return dy.detach(), self.divergence.weight * trace


@torch.no_grad()
def bound(
    denoiser: Denoiser, x: Latent, times: Float[Tensor, " n"], c: Context, random: Random, draws: PositiveInt = 1
) -> Time:
    """An unbiased estimate of the variational upper bound on -log p(x | c), in nats, (b,).

    Arguments:
        x: latents, (b, c, h, w).
        times: the decreasing times of a sampler from 1 to 0, as a grid gives them.
        c: the context.
        random: draws the noise.
        draws: draws of noise at each time.
    """
    schedule, size = denoiser.schedule, x[0].numel()
    grid = times.to(x.device)[:-1, None].repeat(1, len(x))
    snr = [schedule.log_snr(t).exp() for t in grid]
    total = (size + snr[0] * x.flatten(1).square().sum(1)) / (1 + snr[0]) - size + size * snr[0].log1p()
    for k, t in enumerate(grid):
        weight = snr[k + 1] - snr[k] if k + 1 < len(snr) else snr[k]
        alpha, sigma = (along(value, x) for value in schedule.alpha_sigma(t))
        for draw in range(draws):
            eps = random.normal(f"bound {k} draw {draw}", tuple(x.shape[1:])).to(x.dtype)
            error = x - denoiser(alpha * x + sigma * eps, t, c)
            total = total + weight / draws * error.flatten(1).square().sum(1)
    return total / 2 + size / 2 * (2 * math.pi / snr[-1]).log()
