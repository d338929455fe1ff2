"""The adaptive weight by hand: at a last layer whose gradients are written down."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldm.loss.adaptive import CLAMP, AdaptiveWeight


def weight(wanted, adversarial, factor=1.0):
    """For gradients `wanted` of the reconstruction and `adversarial` of the adversarial loss."""
    layer = nn.Parameter(torch.ones(len(wanted)))
    adaptive = AdaptiveWeight([layer], layer)
    adaptive((torch.tensor(wanted) * layer).sum(), (torch.tensor(adversarial) * layer).sum(), factor)
    return adaptive.value


def test_it_is_the_ratio_of_gradient_norms():
    value = weight([3.0, 4.0], [0.6, 0.8], 0.5)
    assert value.item() == pytest.approx(0.5 * 5 / (1 + 1e-4), rel=1e-6) and not value.requires_grad
    assert weight([0.3, 0.4], [0.0, 1e-4]).item() == pytest.approx(0.5 / 2e-4, rel=1e-5)


@pytest.mark.parametrize(
    "wanted, adversarial, expected", [(1e9, 1.0, CLAMP), (1.0, 0.0, CLAMP), (math.nan, 1.0, 0.0), (1.0, math.inf, 0.0)]
)
def test_it_is_finite_and_clamped(wanted, adversarial, expected):
    assert weight([wanted], [adversarial]).item() == pytest.approx(expected, rel=1e-3)


class Update:
    """y = layer * inner * x over four images; each part's terms are means over its images.

    layer = 2, inner = 3; reconstruction a x y, adversarial loss b x y: with means <a> and <b> of the whole batch the gradients at
    the layer are 3 <a>, 3 <b>, and at inner 2 <a>, 2 <b>.
    """

    a, b = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([4.0, -1.0, 2.0, -3.0])  # means 3 and 0.5

    def __init__(self, parts, scaler=None):
        self.layer, self.inner = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor(3.0))
        self.likelihood_scale = nn.Parameter(torch.tensor(1.0))  # as a log-variance: of the reconstruction alone
        parameters = [self.layer, self.inner, self.likelihood_scale]
        adaptive = AdaptiveWeight(parameters, self.layer, parts, scaler)
        self.terms = []
        for a, b in zip(self.a.chunk(parts), self.b.chunk(parts), strict=True):
            y = self.layer.sum() * self.inner
            reconstruction, loss = (a * y).mean() * self.likelihood_scale, (b * y).mean()
            adversarial = adaptive(reconstruction, loss, 0.5)
            self.terms.append(adversarial)
            total = (reconstruction if adversarial is None else reconstruction + adversarial) / parts
            (total if scaler is None else scaler.scale(total)).backward()
        self.value = adaptive.value.item()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_an_update_in_parts_has_the_weight_and_gradient_of_the_whole(parts):
    update = Update(parts)
    value = 0.5 * 9 / (1.5 + 1e-4)
    assert update.value == pytest.approx(value, rel=1e-6)
    assert update.layer.grad.item() == pytest.approx(9 + value * 1.5)
    assert update.inner.grad.item() == pytest.approx(6 + value * 1.0)
    assert update.likelihood_scale.grad.item() == pytest.approx(3 * 6)
    assert all(term is None for term in update.terms[:-1])
    # Divided by the parts, as the stage divides what each part logs, it is the mean over the batch.
    assert update.terms[-1].item() / parts == pytest.approx(value * 0.5 * 6)


def test_gradients_kept_apart_are_scaled_as_the_others():
    plain, scaled = Update(4), Update(4, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    assert scaled.value == pytest.approx(plain.value)
    assert scaled.layer.grad.item() == pytest.approx(2**10 * plain.layer.grad.item())
    assert scaled.inner.grad.item() == pytest.approx(2**10 * plain.inner.grad.item())


def test_two_ranks_weigh_as_one_does_the_whole_batch(monkeypatch):
    random = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 4, 5, generator=random)

    def mean_weight(rows):
        return weight(a[rows].mean(0).tolist(), b[rows].mean(0).tolist()).item()

    whole, alone = mean_weight(slice(None)), mean_weight(slice(0, 2))
    # This process is rank 0 of two; what rank 1 would add is known.
    others = torch.stack([a[2:].mean(0), b[2:].mean(0)])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(others))
    assert mean_weight(slice(0, 2)) == pytest.approx(whole, rel=1e-5) != pytest.approx(alone, rel=1e-2)
