"""Gaussian mixtures at a position: torch's own density, integrating to one; draws, temperature and guidance by closed forms."""

import math

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent
from ldm.prior.head.gaussian_mixture import GaussianMixture
from ldm.random import Random

LATENTS = Latents((2, 1, 1))


def softplus_inverse(value: float) -> float:
    return math.log(math.expm1(value))


def numbers(
    logits: list[float], means: list[list[float]], deviations: list[list[float]], floor: float = 0.01
) -> torch.Tensor:
    """What a network has to give for this law."""
    start = softplus_inverse(0.5)
    raw = [[softplus_inverse(s - floor) - start for s in row] for row in deviations]
    return torch.cat([torch.tensor(each).flatten() for each in (logits, means, raw)])


LAW = [0.2, -0.6, 0.9], [[0.0, 1.0], [-1.5, -0.3], [1.2, -1.0]], [[0.3, 0.2], [0.7, 0.4], [0.15, 0.5]]
HEAD = GaussianMixture(LATENTS, components=3)


def test_it_is_torchs_mixture_and_integrates_to_one():
    logits, means, deviations = map(torch.tensor, LAW)
    peer = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, deviations), 1))
    axis = torch.linspace(-5, 5, 401)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    parameters = numbers(*LAW).view(1, -1, 1, 1).expand(1, -1, 401, 401)
    found = HEAD.log_prob(parameters, grid[None])[0]
    torch.testing.assert_close(found, peer.log_prob(grid.permute(1, 2, 0)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.exp().sum() * 0.025**2, torch.tensor(1.0), rtol=0, atol=1e-3)


def test_deviations_have_a_floor():
    narrow = GaussianMixture(LATENTS, components=1, floor=0.2)
    parameters = torch.tensor([0.0, 0, 0, -100, -100]).view(1, -1, 1, 1)
    wanted = 2 * Normal(0.0, 0.2).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(narrow.log_prob(parameters, torch.zeros(1, 2, 1, 1)).squeeze(), wanted)


def drawn(head: GaussianMixture, law, bent: Bent, null=None, n: int = 40_000) -> torch.Tensor:
    parts = [None if each is None else numbers(*each).expand(n, -1) for each in (law, null)]
    return head.draw(*parts, bent, Random(0, 0, torch.arange(n)), "a")


def test_draws_have_the_moments():
    z = drawn(HEAD, LAW, Bent())
    logits, means, deviations = map(torch.tensor, LAW)
    w = logits.softmax(0)[:, None]
    mean, square = (w * means).sum(0), (w * (means**2 + deviations**2)).sum(0)
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.square().mean(0), square, rtol=0, atol=0.05)
    torch.testing.assert_close(z.prod(1).mean(), (w[:, 0] * means.prod(1)).sum(), rtol=0, atol=0.05)


def test_temperature_is_the_power_of_the_density():
    """Components far apart: p^(1/T) of each is its Gaussian at T s^2 times w^(1/T) (s_1 s_2)^(1 - 1/T), up to what all share."""
    law, power = ([0.5, 0.0], [[-9.0, 0.0], [9.0, 0.0]], [[0.5, 1.0], [2.0, 1.0]]), 2.0
    z = drawn(GaussianMixture(LATENTS, components=2), law, Bent(temperature=1 / power))
    w = torch.tensor([0.5, 0.0]).softmax(0)
    shares = w**power * torch.tensor([0.5, 2.0]) ** (1 - power)
    right = z[:, 0] > 0
    torch.testing.assert_close(right.float().mean(), shares[1] / shares.sum(), rtol=0, atol=0.01)
    torch.testing.assert_close(z[right].std(0), torch.tensor([2.0, 1.0]) / power**0.5, rtol=0.05, atol=0)


def test_guidance_is_the_power_of_a_ratio():
    """Of Gaussians with one deviation p_c (p_c / p_0)^(s - 1) is one at m_0 + s (m_c - m_0); temperature scales its variance."""
    head = GaussianMixture(LATENTS, components=1, candidates=256)
    own, null = ([0.0], [[0.3, -0.2]], [[1.0, 0.5]]), ([0.0], [[0.0, 0.0]], [[1.0, 0.5]])
    for temperature in (1.0, 0.5):
        z = drawn(head, own, Bent(guidance=2.0, temperature=temperature), null, n=4_000)
        torch.testing.assert_close(z.mean(0), torch.tensor([0.6, -0.4]), rtol=0, atol=0.06)
        torch.testing.assert_close(z.std(0), torch.tensor([1.0, 0.5]) * temperature**0.5, rtol=0.08, atol=0)
