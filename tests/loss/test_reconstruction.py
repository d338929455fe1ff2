import math

import pytest
import torch
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Normal

from ldm.loss.reconstruction import Blend, DiscretisedLogistic, Gaussian, Laplace

X, Y = torch.rand(2, 3, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("v", [-3.0, 0.0, 1.0])
@pytest.mark.parametrize(
    "ours, density",
    [
        (Gaussian, lambda v: Normal(Y, math.exp(v / 2))),
        (Laplace, lambda v: TorchLaplace(Y, math.exp(v / 2))),
    ],
)
def test_is_the_density_with_every_constant(ours, density, v):
    expected = -density(v).log_prob(X).flatten(1).sum(1)
    torch.testing.assert_close(ours(log_variance=v)(X, Y), expected)


@pytest.mark.parametrize("square", [0.0, 0.3, 1.0])
def test_blend_is_the_published_form(square):
    # err / exp(v) + v, summed over pixels and with the perceptual distance added to every pixel's error (CompVis).
    distance, weight, v = torch.tensor([0.1, 0.2, 0.3]), 0.7, -1.5
    error = (1 - square) * (X - Y).abs() + square * (X - Y) ** 2 + weight * distance[:, None, None, None]
    expected = (error / math.exp(v) + v).flatten(1).sum(1)
    torch.testing.assert_close(Blend(square, log_variance=v)(X, Y, weight * X[0].numel() * distance), expected)


@pytest.mark.parametrize(
    "make, best",
    [
        (Gaussian, lambda d: d.square().mean().log()),
        (Laplace, lambda d: 2 * d.abs().mean().log()),
        (lambda: Blend(square=1.0), lambda d: d.square().mean().log()),
    ],
)
def test_the_spread_is_learnt_to_its_closed_form_at_the_learning_rate_of_weights(make, best):
    y = X + 0.05 * (Y - X)
    loss = make()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=3e-3)
    for _ in range(600):
        optimizer.zero_grad()
        loss(X, y).mean().backward()
        optimizer.step()
    assert loss.log_variance.item() == pytest.approx(best(X - y).item(), abs=0.1)


def test_a_probability_of_levels_is_the_mass_of_the_logistic_law():
    """F(x + h) - F(x - h), but all below for black and all above for white; s = e^(v/2)."""
    x = torch.tensor([-1.0, 0.2, 1.0]).mul(127.5).round().div(127.5).double().view(1, 3, 1, 1)
    y, s = torch.tensor([-1.1, 0.25, 0.9]).double().view(1, 3, 1, 1), math.exp(-1.5)
    above, below = (torch.sigmoid((x + h - y) / s)[0, :, 0, 0] for h in (1 / 255, -1 / 255))
    wanted = -(above[0].log() + (above[1] - below[1]).log() + (1 - below[2]).log())
    loss = DiscretisedLogistic(log_variance=-3.0)
    torch.testing.assert_close(loss(x.float(), y.float()), wanted.float()[None])
    further = loss(x.float(), y.float(), torch.tensor([2.0]))
    torch.testing.assert_close(further, wanted.float()[None] + 2 / s)


def test_what_is_wholly_black_costs_nothing():
    black, far = -torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), -9.0)
    assert DiscretisedLogistic(log_variance=-1.0)(black, far).item() < 1e-3


def test_a_kept_spread_stays():
    loss = Gaussian(log_variance=-2.0, learnt=False)
    assert loss.log_variance.item() == pytest.approx(-2.0)
    assert not any(p.requires_grad for p in loss.parameters())


def test_half_precision_images_are_measured_in_float32():
    nats = Gaussian()(X.bfloat16(), Y.bfloat16())
    assert nats.dtype == torch.float32
