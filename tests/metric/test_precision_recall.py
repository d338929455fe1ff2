"""Precision, recall, density and coverage: their definition, what pairs and rounding must not change, and their errors."""

import numpy
import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from ldm.metric import precision_recall as module
from ldm.metric.precision_recall import NAMES, precision_recall
from tests.metric.test_distance import gaussian_pairs


def values(x, y, paired=False):
    return [value for value, _ in precision_recall(x, y, paired).values()]


def by_definition(x, y, paired):
    """The four numbers in plain Python, neighbours found anew for every question."""

    def ball(points, j, left_out, k):
        others = [float((p - points[j]).norm()) for i, p in enumerate(points) if i != j and i != left_out]
        return sorted(others)[k - 1]

    def inside(points, by, k):
        found = numpy.zeros((len(points), len(by)), bool)
        for i, point in enumerate(points):
            for j in range(len(by)):
                if not (paired and i == j):
                    found[i, j] = float((point - by[j]).norm()) <= ball(by, j, i if paired else None, k)
        return found

    density = inside(x, y, 5)
    return [
        inside(x, y, 3).any(1).mean(),
        inside(y, x, 3).any(1).mean(),
        density.sum() / (5 * len(x)),
        density.any(0).mean(),
    ]


@pytest.mark.parametrize(("paired", "n", "m"), [(False, 20, 13), (False, 9, 16), (True, 16, 16), (True, 7, 7)])
def test_it_is_its_definition(monkeypatch, paired, n, m):
    monkeypatch.setattr(module, "_BLOCK", 5)
    torch.manual_seed(0)
    x, y = torch.randn(n, 3, dtype=torch.float64), torch.randn(m, 3, dtype=torch.float64) * 1.2
    x = 0.5 * x + 0.5 * y if paired else x
    assert values(x, y, paired) == pytest.approx(by_definition(x, y, paired), abs=1e-12)


def test_precision_and_recall_are_the_peers():
    torch.manual_seed(0)
    x, y = torch.randn(120, 6) * 0.8, torch.randn(120, 6)
    precision, recall = map(float, calculate_precision_recall_full(x.double(), y.double(), neighborhood=3)[:2])
    assert values(x, y)[:2] == pytest.approx([precision, recall], abs=1e-6)


def test_the_extremes():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    assert values(x, x)[:2] == [1, 1]
    assert values(x + 100, x) == [0, 0, 0, 0]
    modes = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 50])
    precision, recall, _, coverage = values(torch.randn(200, 4) * 0.5, modes)
    assert precision > 0.95 and 0.2 < recall < 0.5 and 0.2 < coverage < 0.55  # one of two modes


def test_features_far_from_zero_lose_no_digits():
    """Mean 30 and deviation 0.1: squared norms of 58,000 and distances of 1.1, which float32 cannot tell apart."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 64) * 0.09 + 30, torch.randn(30, 64) * 0.1 + 30
    assert values(x, y) == pytest.approx(by_definition(x.double(), y.double(), False), abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_an_image_is_no_neighbour_of_itself_and_its_duplicates_are(scale):
    # On a line: 0 0 0 0 10 20 30 40. The third neighbour of a 0 is a 0: its ball holds 0 and nothing else.
    line = torch.tensor([0.0, 0, 0, 0, 10, 20, 30, 40])[:, None] * scale
    at = torch.tensor([0.0, 1e-3, 1, 50, 60, 71, 100, -50])[:, None] * scale
    # Reach of 3: of 10, 20, 30, 40 they are 10 (three zeros), 20 (20 to 0), 20 (30 to 10), 30 (40 to 10).
    inside = [True, True, True, True, True, False, False, False]
    assert values(at, line)[0] == sum(inside) / 8
    only = torch.tensor([0.0] * 8)[:, None]
    assert values(only, only) == [1, 1, 8 / 5, 1]
    assert values(only + 1e-6, only) == [0, 0, 0, 0]


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_pairs_change_neither_precision_nor_recall_nor_density(monkeypatch, unchecked, correlation):
    """Of one law: the density is 1, and precision and recall are those of independent sets with one image fewer."""
    monkeypatch.setattr(module, "_POOL", 0)  # no errors, which would take nearly all of the time
    torch.manual_seed(0)
    n = 40
    pairs = torch.tensor([values(*gaussian_pairs(n, 3, correlation), True) for _ in range(150)])
    apart = torch.tensor([values(torch.randn(n, 3), torch.randn(n - 1, 3)) for _ in range(150)])
    errors = ((pairs.var(0) + apart.var(0)) / 150).sqrt()
    assert abs(pairs[:, 0].mean() - apart[:, 0].mean()) < 3.5 * errors[0]
    assert abs(pairs[:, 1].mean() - apart[:, 0].mean()) < 3.5 * errors[0]  # the same law both ways
    assert abs(pairs[:, 2].mean() - 1) < 3.5 * errors[2] and abs(apart[:, 2].mean() - 1) < 3.5 * errors[2]
    if correlation:  # taken for independent sets, they look better than they are
        wrong = torch.tensor([values(*gaussian_pairs(n, 3, correlation)) for _ in range(20)])
        assert (wrong.mean(0)[:3] - apart.mean(0)[:3] > 0.05).all()


@pytest.mark.parametrize(
    ("n", "d", "correlation", "paired", "scale"),
    [(60, 4, 0.0, False, 1.0), (60, 4, 0.9, True, 1.0), (80, 8, 0.5, True, 0.8)],
)
def test_errors_are_the_true_spread(unchecked, n, d, correlation, paired, scale):
    torch.manual_seed(1)
    found = []
    for _ in range(60):
        x, y = gaussian_pairs(n, d, correlation)
        found.append([*precision_recall(x * scale, y, paired).values()])
    spread = torch.tensor([[value for value, _ in each] for each in found]).std(0)
    claimed = torch.tensor([[error for _, error in each[:3]] for each in found]).mean(0)
    # A spread of 60 repetitions is known to 9 %.
    assert ((claimed / spread[:3] > 0.8) & (claimed / spread[:3] < 1.25)).all()
    assert all((error is None) == (value > 0.95) for value, error in (each[3] for each in found))


def test_the_error_of_a_coverage_that_is_not_near_to_1(unchecked):
    torch.manual_seed(1)
    found = [precision_recall(torch.randn(100, 4) + 1, torch.randn(100, 4), False)["coverage"] for _ in range(60)]
    spread = torch.tensor([value for value, _ in found]).std()
    assert 0.75 < torch.tensor([error for _, error in found]).mean() / spread < 1.25


def test_errors_of_larger_sets_are_taken_from_a_part_of_them(monkeypatch):
    """Halves of at most half the pool, and the variance in proportion."""
    torch.manual_seed(0)
    x, y = gaussian_pairs(400, 4, 0.0)
    whole = [error for _, error in [*precision_recall(x, y, False).values()][:3]]
    monkeypatch.setattr(module, "_POOL", 100)
    part = [error for _, error in [*precision_recall(x, y, False).values()][:3]]
    assert part != whole and part == pytest.approx(whole, rel=0.6)
    monkeypatch.setattr(module, "_POOL", 12)
    assert [error for _, error in precision_recall(x, y, False).values()] == [None] * 4


def test_names_and_refusals():
    torch.manual_seed(0)
    x, y = torch.randn(50, 2), torch.randn(60, 2) * 2
    assert tuple(precision_recall(x, y, False)) == NAMES == ("precision", "recall", "density", "coverage")
    assert [error is None for _, error in precision_recall(x[:14], y, False).values()] == [False] * 4
    assert [error for _, error in precision_recall(x[:13], y, False).values()] == [None] * 4
    assert precision_recall(x, y, False) == precision_recall(x, y, False)
    with pytest.raises(ValueError, match="at least 7 images of each kind, got 50 and 6"):
        precision_recall(x, y[:6], False)
    with pytest.raises(ValueError, match="pairs are of equal number, got 50 and 60"):
        precision_recall(x, y, True)
