"""The Inception score: the peer's, by hand, and its error."""

import math

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from ldm.metric.inception_score import inception_score


def test_it_is_the_peers_over_all_samples():
    logits = 3 * torch.randn(200, 12)
    peer = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    assert inception_score(logits)[0] == pytest.approx(peer, rel=1e-9)


def test_its_ends_are_by_hand():
    certain = 1000.0 * torch.eye(4)[torch.arange(12) % 4]  # of each class, and sure of it
    assert inception_score(certain) == (pytest.approx(4.0), pytest.approx(0.0, abs=1e-9))
    assert inception_score(certain[::4])[0] == pytest.approx(1.0), "one class"
    assert inception_score(torch.randn(1, 4).expand(8, 4))[0] == pytest.approx(1.0), "no class rather than another"


def test_its_error_is_that_of_leaving_one_out():
    logits, n = 2 * torch.randn(150, 5), 150
    without = torch.tensor([inception_score(logits[torch.arange(n) != i])[0] for i in range(n)], dtype=torch.float64)
    assert inception_score(logits)[1] == pytest.approx(
        math.sqrt((n - 1) * float(without.var(unbiased=False))), rel=0.03
    )
