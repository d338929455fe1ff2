"""Learnt noise within levels: against probabilities of levels that are known, for pixels independent and normal."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal as Gaussian

from ldm.bijection.network import ConvNet
from ldm.prior.base import Latents, Prior
from ldm.prior.normal import Normal
from ldm.prior.variational_dequantisation import VariationalDequantisation
from ldm.random import Random
from ldm.types import Context, ContextShape

LEVELS, WIDTH = 4, 2 / 3
MEAN, STD = 0.2, 0.35


def noisy(shape: tuple[int, int, int] = (1, 1, 2), **words) -> VariationalDequantisation:
    """Pixels N(0.2, 0.35^2) of four levels -1, -1/3, 1/3, 1."""
    network = partial(ConvNet, width=16, depth=1)
    prior = VariationalDequantisation(
        Latents(shape, pixels=True), ContextShape(), Normal, network=network, levels=LEVELS, **words
    )
    prior.mean.fill_(MEAN)
    prior.std.fill_(STD)
    return prior


def images(count: int, shape: tuple[int, int, int] = (1, 1, 2)) -> Tensor:
    """The levels 1/3 and -1/3 by turns."""
    return torch.tensor([1 / 3, -1 / 3]).repeat(math.prod(shape) // 2).view(1, *shape).repeat(count, 1, 1, 1)


def exact(x: Tensor) -> Tensor:
    """log P of each image, (b,)."""
    law = Gaussian(MEAN, STD)
    return (law.cdf(x + WIDTH / 2) - law.cdf(x - WIDTH / 2)).log().flatten(1).sum(1)


def stirred(prior: VariationalDequantisation) -> VariationalDequantisation:
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return prior


def drawn(prior: VariationalDequantisation, x: Tensor, seed: int = 0) -> Tensor:
    return prior.log_prob(x, Context(), Random(seed, 0, torch.arange(len(x)))).detach()


def test_at_first_the_noise_is_a_sigmoid_of_a_normal_number():
    """E [log p(x') + log w - log q(v)] of each pixel by a sum over a fine grid of e; log q(v) = log N(e) - log v (1 - v)."""
    e = torch.linspace(-8, 8, 20_001).double()
    weights = Gaussian(0.0, 1.0).log_prob(e).exp() * (e[1] - e[0])
    v = e.sigmoid()
    log_q = Gaussian(0.0, 1.0).log_prob(e) - (v * (1 - v)).log()
    x = images(10_000)
    spread = x[0].double().view(-1, 1) + WIDTH * (v - 0.5)
    wanted = (weights * (Gaussian(MEAN, STD).log_prob(spread) + math.log(WIDTH) - log_q)).sum().item()
    found = drawn(noisy(), x)
    assert found.mean().item() == pytest.approx(wanted, abs=4 * found.std().item() / 100)
    assert wanted < exact(x[:1]).item()


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 2), (2, 1, 1)])
def test_whatever_the_noise_weights_are_of_mean_p_and_the_bound_is_below(shape):
    """E [p(x') w^d / q(v | x)] = P(x): densities, log-determinants and scales are all there."""
    x = images(20_000, shape)
    found, wanted = drawn(stirred(noisy(shape)), x).double(), exact(x[:1]).item()
    weights = found.exp()
    assert weights.mean().item() == pytest.approx(math.exp(wanted), abs=4 * weights.std().item() / 20_000**0.5)
    assert found.mean().item() < wanted


def test_learnt_noise_comes_to_the_probability_from_below():
    x = images(64)
    prior, wanted = noisy(), exact(x[:1]).item()
    before = wanted - drawn(prior, x.repeat(80, 1, 1, 1)).mean().item()
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    for step in range(150):
        optimizer.zero_grad()
        prior.loss(x, Context(), Random(1, step, torch.arange(len(x))))["nll per dimension"].backward()
        optimizer.step()
    found = drawn(prior, x.repeat(80, 1, 1, 1))
    gap = wanted - found.mean().item()
    assert -4 * found.std().item() / 71 < gap < before / 5, (before, gap)


def test_the_whitening_is_that_of_the_first_images():
    prior = noisy((2, 4, 4))
    x = torch.rand(600, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 1.0]).view(2, 1, 1)
    prior.begin((part, Context()) for part in x.split(300))
    torch.testing.assert_close(prior.mean[:, 0, 0], x.mean((0, 2, 3)))
    torch.testing.assert_close(prior.std[:, 0, 0], (x.var((0, 2, 3), correction=0) + WIDTH**2 / 12).sqrt())


def test_samples_are_levels():
    x = noisy((1, 8, 8)).sample((5, 1, 8, 8), Context(), Random(0, 0, torch.arange(5)))
    levels = (x + 1) / WIDTH
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0 and levels.max() <= LEVELS - 1


class Silent(Prior):
    """Without a density."""

    def loss(self, z, c, random=None):
        return {}

    def sample(self, shape, c, random=None):
        return torch.zeros(shape)


def test_a_prior_without_a_density_is_refused():
    with pytest.raises(ValueError, match="Silent has none; take prior@prior.prior=glow"):
        VariationalDequantisation(Latents((1, 4, 4), pixels=True), ContextShape(), Silent)
