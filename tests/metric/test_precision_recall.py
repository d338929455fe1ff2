import pytest
import torch

from ldm.metric import precision_recall as module
from ldm.metric.feature_set import FeatureSet
from ldm.metric.precision_recall import covered, precision_recall


def features(x, network="n"):
    return FeatureSet(x, "images", network, network, inception=False)


def values(generated, reference):
    return [m.value for m in precision_recall(features(generated), features(reference))]


def test_the_extremes():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    assert values(x, x) == [1, 1]
    assert values(x + 100, x) == [0, 0]
    modes = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 50])
    precision, recall = values(torch.randn(200, 4) * 0.5, modes)
    assert precision > 0.95 and 0.2 < recall < 0.5  # one of two modes


def test_it_is_its_definition(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    torch.manual_seed(0)
    x, y, k = torch.randn(20, 3), torch.randn(15, 3) * 1.5, 2
    radii = [sorted((a - b).norm() for j, b in enumerate(y) if j != i)[k - 1] for i, a in enumerate(y)]
    plain = [any((a - b).norm() <= r + 1e-5 for b, r in zip(y, radii, strict=True)) for a in x]
    assert covered(x, y, k).tolist() == plain


def test_names_errors_and_refusals():
    torch.manual_seed(0)
    x, y = torch.randn(50, 2), torch.randn(60, 2) * 2
    precision, recall = precision_recall(features(x), features(y))
    assert (precision.metric, recall.metric) == ("precision_n", "recall_n")
    assert recall.standard_error == pytest.approx((recall.value * (1 - recall.value) / 60) ** 0.5)
    with pytest.raises(ValueError, match="one network"):
        precision_recall(features(x), features(y, "other"))
    with pytest.raises(ValueError, match="more than 3 images"):
        precision_recall(features(x), features(y[:3]))
