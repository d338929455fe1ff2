import pytest
import torch
import torch.nn.functional as F

from ldm.nn.norm import Rms, Unnormalised
from ldm.nn.resnet import Downsample, ResBlock, Shuffle, Unshuffle, Upsample


def test_block_is_its_formula():
    block, x, e = ResBlock(8, 12, 5), torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    h = block.conv1(F.silu(block.norm1(x))) + block.embed(F.silu(e))[:, :, None, None]
    wanted = F.conv2d(x, block.shortcut.weight, block.shortcut.bias) + block.conv2(F.silu(block.norm2(h)))
    torch.testing.assert_close(block(x, e), wanted)


def test_scale_and_shift():
    block, x, e = ResBlock(8, 8, 5, scale_shift=True), torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    scale, shift = block.embed(F.silu(e))[:, :, None, None].chunk(2, 1)
    h = block.norm2(block.conv1(F.silu(block.norm1(x)))) * (1 + scale) + shift
    torch.testing.assert_close(block(x, e), x + block.conv2(F.silu(h)))


def test_a_block_that_starts_as_the_identity():
    block, x = ResBlock(8, 8, norm=Rms), torch.randn(2, 8, 4, 4)
    block.start_as_identity()
    assert torch.equal(block(x), x)


def test_dropout_is_off_in_evaluation():
    block, x = ResBlock(8, 8, norm=Unnormalised, dropout=0.5), torch.randn(2, 8, 4, 4)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsample_repeats_pixels_then_convolves(memory_format):
    """Value and gradients, on odd sides too, whatever way it is computed."""
    up = Upsample(6, 6)
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=memory_format).requires_grad_()
    wanted = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), up.conv.weight, up.conv.bias, padding=1)
    torch.testing.assert_close(up(x), wanted, atol=1e-5, rtol=1e-5)
    into, inputs = torch.randn_like(wanted), [x, up.conv.weight, up.conv.bias]
    got = torch.autograd.grad(up(x), inputs, into)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, inputs, into), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Downsample, Unshuffle])
def test_down_halves_and_says_its_channels(kind):
    assert kind(6, 10)(torch.randn(1, 6, 4, 8)).shape == (1, kind(6, 10).outputs, 2, 4)


@pytest.mark.parametrize("kind", [Upsample, Shuffle])
def test_up_doubles_and_says_its_channels(kind):
    assert kind(6, 10)(torch.randn(1, 6, 2, 4)).shape == (1, kind(6, 10).outputs, 4, 8)


def test_padding_at_the_end_only_shifts_the_window():
    down = Downsample(1, 1, pad_all_sides=False)
    torch.nn.init.zeros_(down.conv.weight)
    down.conv.weight.data[0, 0, 0, 0] = 1  # the window's first pixel
    down.conv.bias.data.zero_()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(down(x), x[..., ::2, ::2])
