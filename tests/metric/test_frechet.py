"""The Fréchet distance's error, and its ratio to that of real images: closed forms, leaving one out, spreads."""

import math

import pytest
import torch

from ldm.metric.frechet import Frechet, Ratio, frechet, frechet_distance, mean, ratio


def gaussians(n, m, d, shift=0.0, scale=1.0, correlation=0.0):
    """Two sets of d numbers of unlike variances, whose first rows correlate."""
    spread = torch.linspace(1.0, 0.1, d)
    x, y = torch.randn(max(n, m), d), torch.randn(max(n, m), d)
    y = correlation * x + (1 - correlation**2) ** 0.5 * y
    return ((x * scale + shift) * spread)[:n], (y * spread)[:m]


def test_derivatives_in_one_dimension_are_by_hand():
    # F = (m - m')^2 + (s - s')^2, so that g(x) = 2 (m - m') (x - m) + (1 - s' / s) ((x - m)^2 - its mean).
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[2.0], [4.0], [9.0]])
    found = frechet(x, y)
    a, b = x.double()[:, 0] - 2, y.double()[:, 0] - 5
    s, t = math.sqrt(7), math.sqrt(13)  # of variances (4 + 1 + 9) / 2 and (9 + 1 + 16) / 2
    assert found.value == pytest.approx((2 - 5) ** 2 + (s - t) ** 2)
    wanted = 2 * (2 - 5) * a + (1 - t / s) * (a**2 - 14 / 3)
    assert found.of_generated.tolist() == pytest.approx(wanted.tolist())
    wanted_y = 2 * (5 - 2) * b + (1 - s / t) * (b**2 - 26 / 3)
    assert found.of_reference.tolist() == pytest.approx(wanted_y.tolist())


@pytest.mark.parametrize("paired", [False, True])
def test_the_error_is_that_of_leaving_one_out(paired):
    n, m = 80, 80 if paired else 60
    x, y = gaussians(n, m, 3, 0.4, 1.3, 0.7 * paired)

    def variance(values):
        return (len(values) - 1) * torch.tensor(values, dtype=torch.float64).var(unbiased=False)

    rows = torch.arange(n)
    if paired:
        wanted = variance([frechet_distance(x[rows != i], y[rows != i]) for i in range(n)])
    else:
        wanted = variance([frechet_distance(x[rows != i], y) for i in range(n)])
        wanted += variance([frechet_distance(x, y[rows[:m] != j]) for j in range(m)])
    assert frechet(x, y).error(paired) == pytest.approx(float(wanted.sqrt()), rel=0.1)  # they agree to order 1 / n


@pytest.mark.parametrize(
    ("sizes", "d", "shift", "scale", "least", "most"),
    [
        ((300, 300), 6, 0.3, 1.1, 0.72, 1.3),
        ((300, 300), 6, 0.0, 1.0, 1.05, 1.9),  # sqrt 2 where laws are equal
        ((40, 60), 60, 0.2, 1.1, 1.0, 1.9),  # fewer images than features
    ],
)
def test_the_error_is_the_spread_or_somewhat_above(unchecked, sizes, d, shift, scale, least, most):
    found = [frechet(*gaussians(*sizes, d, shift, scale)) for _ in range(60)]
    values = torch.tensor([each.value for each in found])
    errors = torch.tensor([each.error(False) for each in found])
    assert least < errors.square().mean().sqrt() / values.std() < most


def test_samples_for_one_real_image_are_one_term_with_it():
    x, y = torch.tensor([1.0, -2.0, 0.5, 0.5]).double(), torch.tensor([0.5, -0.5]).double()
    found = Frechet(3.0, x, y)
    terms = [(1 + 0.5) / 4 + 0.25, (-2 + 0.5) / 4 - 0.25]  # samples 0 and 2 belong to image 0, the others to image 1
    assert found.error(paired=True) == pytest.approx(math.sqrt(2 * sum(t**2 for t in terms)))
    alone = 4 / 3 * float((x / 4).square().sum()) + 2 * float((y / 2).square().sum())
    assert found.error(paired=False) == pytest.approx(math.sqrt(alone))
    assert Frechet.of(found.tensors()).error(True) == found.error(True)


def test_a_ratio_and_its_error_are_by_hand():
    samples = Frechet(6.0, torch.tensor([3.0, -3.0]).double(), torch.tensor([2.0, -2.0]).double())
    real = Frechet(2.0, torch.tensor([1.0, -1.0]).double(), torch.tensor([0.5, -0.5]).double())
    found = ratio(samples, real)
    assert found.value == 3.0
    # d(a / b) = (da - 3 db) / 2, halves for the two images of each set.
    terms = [3.0 / 4, (2.0 - 3 * 0.5) / 4, -3 * 1.0 / 4]
    assert found.error(paired=False) == pytest.approx(math.sqrt(2 * 2 * sum(t**2 for t in terms)))
    pair = terms[0] + terms[1]
    assert found.error(paired=True) == pytest.approx(math.sqrt(4 * (pair**2 + terms[2] ** 2)))


def test_a_mean_of_ratios_has_the_error_of_what_each_image_does_to_all():
    one = Ratio(2.0, *(torch.tensor([1.0, -1.0]).double() for _ in range(3)))
    other = Ratio(4.0, *(torch.tensor([-1.0, 1.0]).double() for _ in range(3)))
    assert mean([one, other]).value == 3.0 and mean([one, other]).error(True) == 0.0
    assert mean([one, one]).error(False) == one.error(False) > 0


def test_the_error_of_a_ratio_is_its_spread(unchecked):
    found = []
    for _ in range(60):
        x, y = gaussians(200, 200, 4, 0.4)
        others = gaussians(200, 200, 4)[0] * 1.3  # real images of another law, so that all terms are of first order
        found.append(ratio(frechet(x, y), frechet(others, y)))
    values, errors = torch.tensor([r.value for r in found]), torch.tensor([r.error(False) for r in found])
    assert 0.7 < errors.median() / values.std() < 1.35


def test_two_halves_of_one_set_have_the_distance_that_their_number_predicts(unchecked):
    """Gaussians of one law: 2 d / n of the means and d (d + 1) / 2n of the covariances, to first order."""
    n, d = 400, 5
    found = torch.tensor([frechet_distance(*torch.randn(2 * n, d).split(n)) for _ in range(40)])
    wanted = 2 * d / n + d * (d + 1) / (2 * n)
    assert abs(found.mean() - wanted) < 4 * found.std() / 40**0.5 + 0.03 * wanted
