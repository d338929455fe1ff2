"""The law of holes, kind by kind, and the continuation into one."""

import math

import pytest
import torch

from ldm.condition.continuation import continued
from ldm.condition.holes import Holes
from ldm.random import Random

KINDS = ("box", "half", "stroke", "pixels")
ROWS, SIZE = 600, (16, 24)


def random(seed=0, start=0, stop=ROWS):
    return Random(seed, 0, torch.arange(start, stop))


def of(kind, seed=0):
    return Holes(**{name: float(name == kind) for name in KINDS})(SIZE, random(seed))[:, 0]


def test_each_is_of_its_own_number():
    whole = Holes()(SIZE, random())
    assert whole.shape == (ROWS, 1, *SIZE) and set(whole.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(Holes()(SIZE, random(0, 100, 110)), whole[100:110])
    assert not torch.equal(Holes()(SIZE, random(1)), whole)
    assert whole.flatten(1).mean(1).min() > 0 and whole.flatten(1).mean(1).max() < 1


def test_a_box_is_a_rectangle_of_a_quarter_to_three_quarters():
    holes = of("box")
    rows, columns = holes.amax(2), holes.amax(1)
    assert torch.equal(rows[:, :, None] * columns[:, None], holes)
    for sides, n in ((rows, 16), (columns, 24)):
        share = sides.sum(1) / n
        assert share.min() >= 0.25 - 1 / n and share.max() <= 0.75 + 1 / n
        assert share.mean().item() == pytest.approx(0.5, abs=0.03)
        assert sides.mean(0).max() < 0.95 and sides[:, 0].sum() > 0 and sides[:, -1].sum() > 0, "anywhere"
        assert (sides.diff(dim=1).abs().sum(1) <= 2).all()


def test_a_half_is_all_on_one_side_of_a_line():
    holes, seen = of("half"), {}
    for hole in holes:
        rows, columns = hole.amax(1), hole.amax(0)
        assert torch.equal(rows[:, None] * columns[None], hole) and 0.2 <= hole.mean() <= 0.8
        across = rows if columns.all() else columns
        side = ("columns" if across is columns else "rows", bool(across[0]))
        assert across.diff().abs().sum() == 1
        seen[side] = seen.get(side, 0) + 1
    assert len(seen) == 4 and min(seen.values()) > ROWS / 4 * 0.7


def test_a_stroke_is_what_is_near_a_broken_line():
    """Beside the distance to many points of the line, one by one."""
    holes, own = of("stroke"), random()
    start, width = own.uniform("stroke start", (2,)), (1 + 2 * own.uniform("stroke width")) / 16
    pieces = [own.uniform(f"stroke {piece}", (2,)) for piece in range(3)]
    rows, columns = ((torch.arange(n) + 0.5) / n for n in SIZE)
    for row in range(40):
        point, on_line = start[row], []
        for u in pieces:
            angle, length = 2 * math.pi * u[row, 0], 0.25 + 0.25 * u[row, 1]
            end = torch.stack([point[0] + length * angle.cos(), point[1] + length * angle.sin()]).clamp(0, 1)
            on_line += [point + (end - point) * share / 200 for share in range(201)]
            point = end
        y, x = torch.stack(on_line).T
        distance = ((rows[:, None, None] - y) ** 2 + (columns[None, :, None] - x) ** 2).amin(2).sqrt()
        near, clear = distance < width[row], (distance - width[row]).abs() > 2e-3
        assert torch.equal(holes[row].bool()[clear], near[clear])


def test_pixels_are_lost_one_by_one_with_a_probability_of_each_example():
    share = of("pixels").flatten(1).mean(1)
    assert share.mean().item() == pytest.approx(0.5, abs=0.03) and share.min() < 0.35 and share.max() > 0.65
    neighbours = of("pixels")
    same = (neighbours[:, :, 1:] == neighbours[:, :, :-1]).float().mean().item()
    assert same == pytest.approx(0.5 + 2 * (1 / 48), abs=0.02), "1/2 + 2 var of the probability"


def test_kinds_come_in_proportion_to_their_weights():
    """A half reaches three edges of the image in full, and no other kind does so in every example."""
    some = Holes(half=3.0, pixels=1.0, box=0.0, stroke=0.0)(SIZE, random(2))[:, 0]
    across = (some.amax(1) * some.amin(1)).sum(1) + (some.amax(2) * some.amin(2)).sum(1) > 0
    assert across.float().mean().item() == pytest.approx(0.75, abs=0.06)
    with pytest.raises(ValueError, match=r"condition\.holes: all kinds have weight 0"):
        Holes(0.0, 0.0, 0.0, 0.0)


def test_what_is_between_is_interpolated():
    """One and three at the ends of four pixels: their squares are 1 and 3, which bilinear interpolation spreads by quarters."""
    x, known = torch.tensor([[1.0, 9, 9, 3]] * 2), torch.tensor([[1.0, 0, 0, 1]] * 2)
    assert continued(x[None, None], known[None, None])[0, 0].tolist() == [[1, 1.5, 2.5, 3]] * 2


def test_what_is_known_stays_and_what_is_not_plays_no_part():
    x, hole = torch.randn(6, 2, 13, 7), Holes()((13, 7), random(3, 0, 6))
    hole[5] = 1
    found = continued(x, 1 - hole)
    inside = (hole > 0).expand_as(x)
    assert torch.equal(found[~inside], x[~inside]) and found.isfinite().all()
    assert torch.equal(continued(torch.where(inside, torch.nan, x), 1 - hole), found)
    assert (found[5] == 0).all() and found.abs().max() <= x[~inside].abs().max(), "between what is known"
    flat = torch.full_like(x, 0.7)
    torch.testing.assert_close(continued(flat, 1 - hole)[:5], flat[:5])
