import pytest
import torch

from ldm.eight_bits import eight_bits


def test_eight_bits_are_what_is_shown():
    x = torch.tensor([-1.0, -0.999, 0.0, 1.0, 7.0, float("nan"), -7.0, 0.5]).view(1, 1, 2, 4)
    shown = eight_bits(x)
    assert shown.shape == (1, 3, 2, 4) and shown.dtype == torch.uint8
    assert shown[0, 0].flatten().tolist() == [0, 0, 128, 255, 255, 128, 0, 191]
    assert torch.equal(shown[:, 0], shown[:, 2])


def test_transparency_is_composited_on_white():
    colour = torch.full((1, 3, 1, 3), -1.0)
    alpha = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    assert eight_bits(torch.cat([colour, alpha], 1))[0, 1, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 5, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="wanted images"):
        eight_bits(torch.zeros(shape))


def test_eight_bit_values_survive_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(eight_bits(every / 127.5 - 1)[:, :1], every)
