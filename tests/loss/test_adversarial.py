import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ldm.loss.adversarial import CLAMP, Adversarial, adaptive_weight
from ldm.nn.patchgan import PatchGAN


class Mean(nn.Module):
    """A critic whose logits are known: scale * mean of the image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x.mean((1, 2, 3))


def images(value, rows=2):
    return torch.full((rows, 1, 4, 4), float(value))


@pytest.mark.parametrize("real, fake", [(1.0, -1.0), (0.25, 0.1), (-1.0, 1.0)])
def test_the_critics_loss_is_the_hinge(real, fake):
    values = Adversarial(Mean()).critic_loss(images(real), images(fake))
    assert values["critic"].item() == pytest.approx(0.5 * (max(0, 1 - 2 * real) + max(0, 1 + 2 * fake)))
    assert values["real"].item() == pytest.approx(2 * real) and values["fake"].item() == pytest.approx(2 * fake)


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    layer = nn.Parameter(torch.tensor([1.0, 2.0]))
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    weight = adaptive_weight((a * layer).sum(), (b * layer).sum(), layer)
    assert weight.item() == pytest.approx(5 / (1 + 1e-4)) and not weight.requires_grad


@pytest.mark.parametrize(
    "wanted, heard, expected", [(1e9, 1.0, CLAMP), (1.0, 0.0, CLAMP), (math.nan, 1.0, 0.0), (1.0, math.inf, 0.0)]
)
def test_the_adaptive_weight_is_finite_and_clamped(wanted, heard, expected):
    layer = nn.Parameter(torch.ones(1))
    assert adaptive_weight((wanted * layer).sum(), (heard * layer).sum(), layer).item() == pytest.approx(
        expected, rel=1e-3
    )


def test_the_generators_term_leaves_nothing_on_the_critic():
    adversarial = Adversarial(PatchGAN(width=8, layers=1))
    layer = nn.Parameter(torch.ones(1))
    y = layer * torch.randn(2, 3, 16, 16)
    term, weight = adversarial.generator(y, y.square().mean(), layer)
    (weight * term).backward()
    assert layer.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in adversarial.critic.parameters())


def test_the_critics_loss_leaves_nothing_on_the_autoencoder():
    # Trap: the critic's gradient left on the autoencoder for its next step.
    adversarial = Adversarial(PatchGAN(width=8, layers=1))
    layer = nn.Parameter(torch.ones(1))
    adversarial.critic_loss(torch.randn(2, 3, 16, 16), layer * torch.randn(2, 3, 16, 16))["critic"].backward()
    assert layer.grad is None
    assert all(p.grad is not None for p in adversarial.critic.parameters())


def test_an_untrained_critic_may_not_judge():
    with pytest.raises(ValueError, match="critic_start=10 is not before start=10"):
        Adversarial(Mean(), start=10, critic_start=10)


def test_two_ranks_weigh_as_one_does_the_whole_batch(monkeypatch):
    random = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 4, 5, generator=random)

    def weight(rows):
        layer = nn.Parameter(torch.ones(5))
        return adaptive_weight((a[rows] @ layer).mean(), (b[rows] @ layer).mean(), layer).item()

    whole, alone = weight(slice(None)), weight(slice(0, 2))
    # This process is rank 0 of two; what rank 1 would add is known.
    others = torch.stack([a[2:].mean(0), b[2:].mean(0)])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(others))
    assert weight(slice(0, 2)) == pytest.approx(whole, rel=1e-5) != pytest.approx(alone, rel=1e-2)
