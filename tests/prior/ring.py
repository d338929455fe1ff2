"""A law in the plane whose density is known: eight Gaussians on a circle, as latents (2, 1, 1) of mean 0 and variance 1."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

MODES = 8
DEVIATION = 0.15
RADIUS = math.sqrt(2 * (1 - DEVIATION**2))  # of each coordinate's variance, RADIUS^2 / 2 + DEVIATION^2 = 1


def centres() -> Tensor:
    """Of the modes, (8, 2)."""
    angle = 2 * math.pi * torch.arange(MODES) / MODES
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


def modes(z: Tensor) -> Tensor:
    """The nearest mode of each latent, (b,)."""
    return torch.cdist(z.flatten(1), centres().to(z)).argmin(1)


def draw(count: int, generator: torch.Generator | None = None, label: Tensor | None = None) -> Tensor:
    """Latents (count, 2, 1, 1), of the modes that `label` (count,) says or of any."""
    if label is None:
        label = torch.randint(MODES, (count,), generator=generator)
    return (centres()[label] + DEVIATION * torch.randn(count, 2, generator=generator))[:, :, None, None]


def log_density(z: Tensor) -> Tensor:
    """log p(z) in nats, (b,)."""
    away = (z.flatten(1)[:, None] - centres().to(z)) / DEVIATION
    each = -0.5 * away.square().sum(2) - 2 * math.log(DEVIATION) - math.log(2 * math.pi)
    return each.logsumexp(1) - math.log(MODES)


def grid(limit: float = 4.0, side: int = 401) -> tuple[Tensor, float]:
    """Points of a grid over [-limit, limit]^2 as latents (side^2, 2, 1, 1), and the area of each."""
    axis = torch.linspace(-limit, limit, side)
    points = torch.cartesian_prod(axis, axis)
    return points[:, :, None, None], float((axis[1] - axis[0]) ** 2)


@torch.no_grad()
def integral(log_prob: Callable[[Tensor], Tensor], limit: float = 4.0, side: int = 401) -> float:
    """Of a density over the grid: 1 where it is normalised and has nothing outside."""
    points, area = grid(limit, side)
    return float(torch.cat([log_prob(part) for part in points.split(20_000)]).double().exp().sum() * area)


def entropy() -> float:
    """Of the law, in nats, by the same sum, which for so smooth a density is exact to many digits."""
    points, area = grid()
    log_p = log_density(points.double())
    return float(-(log_p.exp() * log_p).sum() * area)


def kernel_distance(x: Tensor, y: Tensor, width: float = 2 * DEVIATION) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of two sets of latents under a Gaussian kernel."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * width**2))

    x, y = x.flatten(1).double(), y.flatten(1).double()
    within = sum((kernel(each, each).sum() - len(each)) / (len(each) * (len(each) - 1)) for each in (x, y))
    return float(within - 2 * kernel(x, y).mean())


@functools.cache
def _between_draws(count: int, repeats: int) -> tuple[Tensor, float]:
    """So many draws, and the deviation of the kernel distance between two sets of them."""
    generator = torch.Generator().manual_seed(5)
    own = [kernel_distance(*(draw(count, generator) for _ in range(2))) for _ in range(repeats)]
    return draw(count, generator), float(torch.tensor(own).square().mean().sqrt())


def errors_away(z: Tensor, repeats: int = 20) -> float:
    """The kernel distance of latents from as many draws of the law, in standard errors: in deviations of that between two
    sets of draws, whose mean is 0."""
    draws, deviation = _between_draws(len(z), repeats)
    return kernel_distance(z, draws) / deviation
