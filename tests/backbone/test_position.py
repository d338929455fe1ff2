import math

import pytest
import torch

from ldm.backbone.position import Nowhere, Rotary, SinCos
from ldm.nn.attention import rotated
from ldm.nn.embedding import sinusoidal

CPU = torch.device("cpu")


def test_sincos_is_the_row_beside_the_column():
    added = SinCos(8, 2).added(2, 3, CPU)
    assert added.shape == (1, 6, 8)
    wanted = torch.cat([sinusoidal(torch.tensor([1.0]), 4), sinusoidal(torch.tensor([2.0]), 4)], 1)
    torch.testing.assert_close(added[:, 5], wanted)  # the last token is at row 1, column 2


def test_rotated_is_a_product_of_complex_numbers():
    x, angles = torch.randn(2, 3, 4, 6), torch.randn(1, 4, 3)
    y = rotated(x, torch.cat([angles.cos(), angles.sin()], -1))
    wanted = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones(()), angles)[:, None]
    torch.testing.assert_close(torch.complex(*y.chunk(2, -1)), wanted)


def test_rotary_products_know_the_displacement_alone():
    height, width = 4, 5
    rotation = Rotary(16, 2).rotation(height, width, CPU)
    q, k = torch.randn(2, 8)
    turned_q, turned_k = (rotated(v.expand(1, 1, height * width, 8), rotation)[0, 0] for v in (q, k))
    scores = (turned_q @ turned_k.T).view(height, width, height, width)
    torch.testing.assert_close(scores[0, 0, 2, 1], scores[1, 3, 3, 4])  # two down, one to the right
    torch.testing.assert_close(scores[3, 1, 0, 2], scores[3, 3, 0, 4])
    assert not torch.allclose(scores[0, 0, 2, 1], scores[0, 0, 1, 2], atol=1e-3)
    assert scores[1, 2, 1, 2].item() == pytest.approx((q @ k).item(), rel=1e-4)
    first_pair = math.atan2(turned_k[width, 4], turned_k[width, 0]) - math.atan2(k[4], k[0])
    assert math.remainder(first_pair - 1, 2 * math.pi) == pytest.approx(0, abs=1e-5)  # one row down is one radian


@pytest.mark.parametrize("base", [100.0, 7.0])
def test_each_pair_of_a_head_turns_more_slowly_by_the_same_factor(base):
    """Three pairs a head for the row, at 1, base^(-1/3) and base^(-2/3) radians a pixel, then three for the column."""
    rotation = Rotary(24, 2, base).rotation(3, 4, CPU)[0, 2 * 4 + 3]  # the token at row 2, column 3
    speeds = torch.tensor([1.0, base ** (-1 / 3), base ** (-2 / 3)])
    angles = torch.cat([2 * speeds, 3 * speeds])
    torch.testing.assert_close(rotation, torch.cat([angles.cos(), angles.sin()]))


def test_nowhere_tells_nothing():
    nowhere = Nowhere(7, 7)
    assert nowhere.added(2, 2, CPU) is None and nowhere.rotation(2, 2, CPU) is None


@pytest.mark.parametrize(("kind", "width", "heads"), [(SinCos, 6, 1), (Rotary, 8, 4)])
def test_widths_that_hold_no_place_are_refused(kind, width, heads):
    with pytest.raises(ValueError, match=r"width \d cannot hold them; take a multiple of 4"):
        kind(width, heads)
