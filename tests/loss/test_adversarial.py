import pytest
import torch
from torch import nn

from ldm.loss.adversarial import Adversarial
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


def test_the_generators_loss_is_minus_the_mean_logit():
    assert Adversarial(Mean()).generator_loss(images(0.25)).item() == pytest.approx(-0.5)


def test_the_generators_loss_leaves_nothing_on_the_critic():
    adversarial = Adversarial(PatchGAN(width=8, layers=1))
    layer = nn.Parameter(torch.ones(1))
    adversarial.generator_loss(layer * torch.randn(2, 3, 16, 16)).backward()
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
