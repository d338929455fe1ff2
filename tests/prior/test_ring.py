"""The law that densities are measured against has the moments, the mass and the entropy that it says."""

import math

import pytest
import torch

from tests.prior import ring


def test_it_is_whitened_and_normalised():
    z = ring.draw(40_000)
    assert z.shape == (40_000, 2, 1, 1)
    torch.testing.assert_close(z.mean(0).flatten(), torch.zeros(2), rtol=0, atol=0.03)
    torch.testing.assert_close(z.var(0).flatten(), torch.ones(2), rtol=0, atol=0.03)
    assert ring.integral(ring.log_density) == pytest.approx(1, abs=1e-4)
    assert torch.bincount(ring.modes(z)).min() > 0.8 * len(z) / 8


def test_its_entropy():
    """Of eight Gaussians that hardly overlap: log 8 + log(2 pi e s^2), less the nats by which one does not know of which a
    point is; and the mean of -log p over draws."""
    apart = math.log(8) + math.log(2 * math.pi * math.e * ring.DEVIATION**2)
    assert apart - 0.005 < ring.entropy() < apart
    assert ring.entropy() == pytest.approx(-ring.log_density(ring.draw(40_000)).mean().item(), abs=0.03)


def test_a_label_names_the_mode():
    label = torch.arange(8).repeat(10)
    assert (ring.modes(ring.draw(80, label=label)) == label).float().mean() > 0.95


def test_the_kernel_distance_by_hand():
    """Two points at a distance d apart on either side: kernels are exp(-d^2 / 2) of points of deviation 1."""
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    wanted = 2 * math.exp(-0.5) - 2 * (math.exp(-2) + math.exp(-2.5)) / 2
    assert ring.kernel_distance(x, y, width=1.0) == pytest.approx(wanted)


def test_draws_are_within_errors_of_the_law_and_others_are_not():
    assert abs(ring.errors_away(ring.draw(500))) < 4
    assert ring.errors_away(torch.randn(500, 2, 1, 1)) > 10
    uneven = torch.multinomial(torch.tensor([2.0] + 7 * [1.0]), 500, replacement=True)
    assert ring.errors_away(ring.draw(500, label=uneven)) > 3, "one mode of twice the share"
