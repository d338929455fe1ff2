"""The importance-weighted bound where all is linear and Gaussian: x = a z + e, z ~ N(0, 1), e ~ N(0, v), q = N(m, s^2)."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from ldm.autoencoder.bottleneck import Posterior
from ldm.loss.importance_weighted import ImportanceWeighted

A, V, X = 0.8, 0.3, 1.1
EXACT = Normal(0.0, math.sqrt(A**2 + V)).log_prob(torch.tensor(X)).item()
RIGHT = (A * X / (A**2 + V), math.sqrt(V / (A**2 + V)))  # of z given x
WRONG = (RIGHT[0] + 0.4, RIGHT[1] * 1.5)


def bound(draws: int, eps: Tensor, m: Tensor, s: Tensor, a: Tensor | float = A, doubly: bool = False) -> Tensor:
    """Of the images of which eps has `draws` each."""
    shape = (len(eps), 1, 1, 1)
    law = Posterior(m.expand(shape), s.expand(shape))
    z = law.sample(eps.view(shape))
    log_p = Normal(a * z, math.sqrt(V)).log_prob(torch.tensor(X)).flatten()
    return ImportanceWeighted(draws, doubly)(log_p, z, law)


@pytest.mark.parametrize("draws", [1, 5])
def test_under_the_exact_posterior_every_draw_is_the_evidence(draws):
    found = bound(draws, torch.randn(20 * draws), *torch.tensor(RIGHT))
    torch.testing.assert_close(found, torch.full((20,), EXACT), rtol=0, atol=1e-4)


def test_one_draw_is_the_evidence_bound_and_many_are_the_evidence():
    """log p(x) - KL(q || p(z | x)) for k = 1."""
    (m, s), (right_m, right_s) = WRONG, RIGHT
    divergence = math.log(right_s / s) + (s**2 + (m - right_m) ** 2) / (2 * right_s**2) - 0.5
    eps, law = torch.randn(100_000), torch.tensor(WRONG)
    one, ten, many = (bound(k, eps, *law) for k in (1, 10, 5_000))
    assert one.mean().item() == pytest.approx(EXACT - divergence, abs=4 * one.std().item() / 316)
    assert one.mean() + 0.1 < ten.mean() < many.mean() + 0.01
    assert many.mean().item() == pytest.approx(EXACT, abs=4 * many.std().item() / 20**0.5)


def by_hand(eps: Tensor, m: float, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised weights, d log w / dz of each draw, and d log w / da, of the one image of these draws."""
    z = m + s * eps
    log_w = -((X - A * z) ** 2) / (2 * V) - z**2 / 2 + eps**2 / 2 + math.log(s)
    return log_w.softmax(0), A * (X - A * z) / V - z + eps / s, z * (X - A * z) / V


@pytest.mark.parametrize("doubly", [False, True])
def test_the_gradients_are_those_of_the_papers(doubly):
    """Equation 13 of Burda et al.: sum v grad log w, where log w = ... + eps^2 / 2 + log s knows s by itself, too; equation 8 of
    Tucker et al.: sum v^2 (d log w / dz) dz / d(m, s). The decoder's is the first in both."""
    eps, (m, s) = torch.randn(6).double(), WRONG
    v, by_z, by_a = by_hand(eps, m, s)
    own = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (m, s, A)]
    found = torch.autograd.grad(bound(6, eps, *own, doubly=doubly).sum(), own)
    if doubly:
        wanted = [(v**2 * by_z).sum(), (v**2 * by_z * eps).sum()]
    else:  # through z without what log q itself changes by it, (z - m) / s^2, which cancels with its own parameters
        through = by_z - eps / s
        wanted = [(v * through).sum(), (v * (through * eps + 1 / s)).sum()]
    for one, other in zip(found, [*wanted, (v * by_a).sum()], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_both_gradients_have_one_mean():
    eps, law = torch.randn(200_000), [torch.tensor(each, requires_grad=True) for each in WRONG]
    plain, doubly = (torch.autograd.grad(bound(4, eps, *law, doubly=each).mean(), law) for each in (False, True))
    torch.testing.assert_close(plain, doubly, rtol=0.05, atol=0.01)


def test_an_encoder_without_a_distribution_is_refused():
    z = torch.zeros(2, 1, 1, 1)
    with pytest.raises(ValueError, match="autoencoder=vae"):
        ImportanceWeighted(2)(torch.zeros(2), z, Posterior(z, z))
