import pytest
import torch

from ldm.nn.norm import Group
from ldm.nn.patchgan import PatchGAN


@pytest.mark.parametrize("layers, patch", [(1, 16), (2, 34), (3, 70)])
def test_sees_patches_of_the_stated_side(layers, patch):
    critic = PatchGAN(channels=3, width=8, layers=layers, norm=lambda channels: torch.nn.Identity())
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    logits = critic(x)
    centre = logits.shape[-1] // 2
    logits[0, 0, centre, centre].backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == patch


@pytest.mark.parametrize("layers, side, expected", [(1, 8, 2), (2, 32, 6), (3, 32, 2), (3, 64, 6)])
def test_one_logit_a_patch(layers, side, expected):
    assert PatchGAN(channels=1, width=8, layers=layers)(torch.randn(2, 1, side, side)).shape == (
        2,
        1,
        expected,
        expected,
    )


def test_the_layers_are_those_of_the_paper():
    """C64-C128-C256-C512 with strides 2, 2, 2, 1; a fifth layer is no wider; eight groups of each normalisation."""
    convolutions = [m for m in PatchGAN(layers=3).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]
    assert [m.stride[0] for m in convolutions] == [2, 2, 2, 1, 1]
    wide = PatchGAN(width=8, layers=5)
    assert [m.out_channels for m in wide.modules() if isinstance(m, torch.nn.Conv2d)] == [8, 16, 32, 64, 64, 64, 1]
    norms = [m for m in wide.modules() if isinstance(m, Group)]
    assert [m.groups for m in norms] == [8] * 5


def test_too_small_an_image_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"at least 24 pixels.*16x16.*fewer layers"):
        PatchGAN(layers=3)(torch.randn(1, 3, 16, 16))


def test_a_verdict_does_not_depend_on_the_rest_of_the_batch():
    critic = PatchGAN(width=16, layers=2).train()
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))
    assert not list(critic.buffers())
