import pytest
import torch
from torch import nn

from ldm.nn.norm import Group, Rms, Unnormalised


def test_group_is_torchs():
    generator = torch.Generator().manual_seed(0)
    x, ours, theirs = torch.randn(2, 12, 5, 5, generator=generator), Group(12, groups=4), nn.GroupNorm(4, 12)
    with torch.no_grad():
        theirs.weight.normal_(generator=generator)
        ours.weight.copy_(theirs.weight)
    torch.testing.assert_close(ours(x), theirs(x))


def test_groups_divide_any_number_of_channels():
    assert [Group(c).groups for c in (3, 48, 64, 320)] == [1, 16, 32, 32]
    assert Group(32, groups=32).groups == 32
    assert Group(3)(torch.randn(1, 3, 2, 2)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("channels", [2, 8, 16, 32, 64])
def test_what_is_added_to_a_channel_survives(channels):
    """With one channel a group, a constant added to it would be gone; so would the embedding of a residual block."""
    x, added = torch.randn(1, channels, 4, 4), torch.randn(channels, 1, 1)
    assert not torch.allclose(Group(channels)(x), Group(channels)(x + added), atol=1e-2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_rms_is_its_formula(memory_format):
    x = torch.randn(2, 6, 3, 4).contiguous(memory_format=memory_format).requires_grad_()
    norm = Rms(6, eps=1e-6)
    nn.init.normal_(norm.weight)
    wanted = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight[:, None, None]
    torch.testing.assert_close(norm(x), wanted)
    up = torch.randn_like(wanted)
    got = torch.autograd.grad(norm(x), [x, norm.weight], up)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, [x, norm.weight], up))


def test_rms_mixes_no_pixels():
    """Changing one pixel changes that pixel only; group normalisation would change all."""
    x = torch.randn(1, 8, 4, 4)
    y = x.clone()
    y[..., 0, 0] += 1
    for norm, local in ((Rms(8), True), (Group(8, groups=2), False)):
        assert torch.equal(norm(x)[..., 1:, :], norm(y)[..., 1:, :]) is local


@pytest.mark.parametrize("kind", [Group, Rms, Unnormalised])
def test_half_precision_is_normalised_in_float32(kind):
    """In bfloat16 arithmetic squares of 300 +- 1 would lose the variance; computed in float32 only rounding is left."""
    x = (300 + torch.randn(2, 32, 8, 8)).bfloat16()
    norm = kind(32)
    got = norm(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, norm(x.float()).bfloat16(), rtol=0, atol=0)


def test_autocast_keeps_the_precision_of_what_comes():
    x = torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert Group(8)(x).dtype == torch.float32
        assert Group(8)(x.bfloat16()).dtype == torch.bfloat16
