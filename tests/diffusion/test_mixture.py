"""The closed forms of the mixture hold together: a density, its gradient, and the denoiser by Tweedie's formula."""

import pytest
import torch

from ldm.types import Context
from tests.diffusion.mixture import MixtureDenoiser
from tests.pieces import pieces

SCHEDULES = pieces("diffusion/schedule")


@pytest.fixture(params=SCHEDULES, ids=SCHEDULES.keys())
def mixture(request):
    return MixtureDenoiser(SCHEDULES[request.param]())


def draw(mixture, t, n):
    generator = torch.Generator().manual_seed(0)
    times = torch.full((n,), t, dtype=torch.float64)
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in mixture.schedule.alpha_sigma(times))
    x = mixture.draw(n, generator)
    return x, alpha * x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64), times


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7])
def test_the_score_is_the_gradient_of_the_density(mixture, t):
    _, x_t, times = draw(mixture, t, 50)
    x_t.requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_density(x_t, times).sum(), x_t)
    assert torch.allclose(gradient, mixture.score(x_t, times), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_the_denoiser_is_tweedies(mixture, t):
    """alpha E[x | x_t] = x_t + sigma^2 score (Robbins 1956)."""
    _, x_t, times = draw(mixture, t, 50)
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in mixture.schedule.alpha_sigma(times))
    found = alpha * mixture(x_t, times, Context())
    assert torch.allclose(found, x_t + sigma**2 * mixture.score(x_t, times), atol=1e-9)


def test_at_time_zero_the_denoiser_is_the_identity(mixture):
    x, x_t, times = draw(mixture, 0.0, 50)
    assert torch.equal(x, x_t) and torch.allclose(mixture(x_t, times, Context()), x, atol=1e-12)


def test_the_density_integrates_to_one():
    mixture = MixtureDenoiser(SCHEDULES["cosine"]())
    line = torch.linspace(-6, 6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)[..., None, None]
    for t in (0.0, 0.4, 1.0):
        density = mixture.log_density(points, torch.full((len(points),), t, dtype=torch.float64)).exp()
        assert abs(density.sum() * (line[1] - line[0]) ** 2 - 1) < 1e-6
