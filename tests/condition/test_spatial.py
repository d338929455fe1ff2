"""Conditions on a part of each image: the map by hand, the law of training, and what they are composed with."""

import pytest
import torch
from torch import Tensor

from ldm.condition.holes import Holes
from ldm.condition.label import Label
from ldm.condition.low_resolution import LowResolution
from ldm.condition.masked import Masked
from ldm.random import Random
from ldm.types import ContextShape
from tests.condition.first import Folded

ROWS = torch.arange(64)


def images(n: int = 64, height: int = 8, width: int = 8) -> Tensor:
    return Random(7, 0, torch.arange(n)).uniform("x", (1, height, width)) * 2 - 1


def batch(**more):
    return {"image": images(), "index": ROWS, "label": ROWS % 3} | more


# Masked


def test_a_map_of_a_hole_is_what_is_known_and_where():
    """Of 4 x 4 pixels the first square of 2 x 2 is unknown, and one more pixel, the last."""
    x, hole = images(1, 4, 4), torch.zeros(1, 1, 4, 4)
    hole[..., :2, :2], hole[..., 3, 3] = 1, 1
    first = Folded(4, 4)
    c = Masked(first)({"image": x, "hole": hole})
    assert c.shape == ContextShape(None, 8) and c.spatial.shape == (1, 8, 2, 2)
    known, where = c.spatial[0, :4], c.spatial[0, 4:]
    assert (known[:, 0, 0] == 0).all()
    assert known[:, 0, 1].tolist() == (2 * x[0, 0, :2, 2:].flatten()).tolist()
    assert known[:3, 1, 1].tolist() == (2 * x[0, 0, 2:, 2:].flatten()[:3]).tolist()
    assert known[3, 1, 1] == 2 * first.calls[0][0, 0, 3, 3] != 2 * x[0, 0, 3, 3], "continued from around"
    assert where.flatten(1).T.tolist() == [[1] * 4, [0] * 4, [0] * 4, [0, 0, 0, 1]]


def test_what_is_in_the_hole_is_not_told():
    masked, random = Masked(Folded()), Random(0, 0, ROWS)
    given = masked.given(batch(), random)
    other = given | {"image": torch.where(given["hole"] > 0, torch.nan, given["image"])}
    assert torch.equal(masked(other).spatial, masked(given).spatial)
    outside = given | {"image": torch.where(given["hole"] > 0, given["image"], -given["image"])}
    assert not torch.equal(masked(outside).spatial, masked(given).spatial)


def test_a_hole_that_is_all_is_nothing():
    masked = Masked(Folded())
    c = masked({"image": images(), "hole": torch.ones(64, 1, 8, 8)})
    assert torch.equal(c.spatial, c.null().spatial)
    for without in ({"image": images()}, {"index": ROWS}):
        assert torch.equal(masked(without).spatial, c.spatial)
    assert Masked(Folded())({"image": images(2), "hole": torch.zeros(2, 1, 8, 8)}).spatial[:, 4:].eq(0).all()


def test_holes_are_drawn_by_their_law_unless_they_are_there():
    holes, random = Holes(half=0.0), Random(3, 1, ROWS)
    masked = Masked(Folded(), holes)
    found = masked.given(batch(), random)["hole"]
    assert torch.equal(found, holes((8, 8), random))
    assert torch.equal(masked.given(batch(hole=1 - found), random)["hole"], 1 - found)
    assert "hole" not in masked.given({"index": ROWS}, random)


# Low resolution


@pytest.mark.parametrize(("factor", "channels"), [(1, 4), (2, 1), (4, 0)])
def test_a_map_of_few_pixels_is_of_the_latents_size(factor, channels):
    """Latents of 2 x 2 pixels: that of the enlargement, and the pixels, folded, as they are, or left out."""
    x, low = images(3), LowResolution(Folded(), factor).eval()
    c = low(low.given({"image": x}, Random(0, 0, torch.arange(3))))
    assert c.shape == ContextShape(None, 5 + channels) and (c.spatial[:, -1] == 0).all()
    y = x.view(3, 1, 8 // factor, factor, 8 // factor, factor).mean((3, 5))
    enlarged = torch.nn.functional.interpolate(y, (8, 8), mode="bicubic")
    torch.testing.assert_close(c.spatial[:, :4], 2 * torch.nn.functional.pixel_unshuffle(enlarged, 2))
    if factor < 4:
        torch.testing.assert_close(c.spatial[:, 4:-1], torch.nn.functional.pixel_unshuffle(y, 2 // factor))
    assert low.shape == c.shape and (c.null().spatial[:, :-1] == 0).all() and (c.null().spatial[:, -1] == 1).all()


def test_noise_is_told():
    """sigma = 3/4: s = 3/5, and y is multiplied by 4/5. Infinite noise is as nothing."""
    low, y = LowResolution(Folded()), images(2, 4, 4)
    c = low({"low_resolution": y, "low_noise": torch.tensor([0.0, 0.75])})
    torch.testing.assert_close(c.spatial[:, 4], torch.stack([y[0, 0], 0.8 * y[1, 0]]))
    torch.testing.assert_close(c.spatial[:, 5], torch.tensor([0.0, 0.6]).view(2, 1, 1).expand(2, 4, 4))
    far = low({"low_resolution": y, "low_noise": torch.full((2,), 1e6)})
    torch.testing.assert_close(far.spatial[:, 4:], far.null().spatial[:, 4:], atol=1e-5, rtol=0)


def test_noise_is_added_in_training_alone_and_is_what_is_told():
    rows, x = torch.arange(4000), images(4000)
    low = LowResolution(Folded(), noise=0.4)
    given = low.given({"image": x}, Random(0, 0, rows))
    sigma, added = given["low_noise"], given["low_resolution"] - low.small(x)
    assert 0 <= sigma.min() < 0.01 and 0.39 < sigma.max() <= 0.4 and sigma.mean().item() == pytest.approx(0.2, abs=0.01)
    few = sigma > 0.02
    assert (added / sigma.view(-1, 1, 1, 1))[few].std().item() == pytest.approx(1, abs=0.02)
    assert added.mean().abs() < 0.01
    part = low.given({"image": x[5:9]}, Random(0, 0, rows[5:9]))
    assert torch.equal(part["low_resolution"], given["low_resolution"][5:9])
    still = low.eval().given({"image": x}, Random(0, 0, rows))
    assert torch.equal(still["low_resolution"], low.small(x)) and (still["low_noise"] == 0).all()
    assert low.given(part, Random(9, 0, rows[:4])) is part and "low_noise" not in low.given(
        {"index": rows}, Random(0, 0, rows)
    )


def test_a_factor_that_does_not_fit_is_told_with_those_that_do():
    with pytest.raises(
        ValueError, match=r"condition\.factor=3 is to divide images of 8 x 8 pixels; take one of 2, 4, 8"
    ):
        LowResolution(Folded(), 3)


# Both


@pytest.mark.parametrize("kind", [Masked, LowResolution])
def test_image_and_label_are_dropped_by_themselves(kind):
    label = Label(classes=3, width=5, drop=0.3)
    condition, rows = kind(Folded(), of=label, drop=0.2), torch.arange(4000)
    assert condition.shape.tokens == 5 and condition.needs == ("label", "image")
    told = {"image": images(4000), "label": rows % 3, "index": rows}
    random = Random(0, 0, rows)
    c = condition(condition.given(told, random))
    assert torch.equal(c.tokens, label(told).tokens)
    found = condition.dropped(c, random)
    parts = {}
    for part in ("tokens", "spatial"):
        own, null, dropped = getattr(c, part), getattr(c.null(), part), getattr(found, part)
        gone = (dropped == null).flatten(1).all(1)
        assert torch.equal(dropped[~gone], own[~gone])
        parts[part] = gone.float()
    assert parts["tokens"].mean().item() == pytest.approx(0.3, abs=0.03)
    assert parts["spatial"].mean().item() == pytest.approx(0.2, abs=0.03)
    assert (parts["tokens"] * parts["spatial"]).mean().item() == pytest.approx(0.06, abs=0.015), "independently"
    assert condition.find(Label) is label and label.find(kind) is None and condition.find(kind) is condition


@pytest.mark.parametrize("kind", [Masked, LowResolution])
def test_the_first_stage_is_neither_learnt_nor_kept_nor_moved(kind):
    condition = kind(Folded(), of=Label(classes=3, width=5))
    assert list(condition.state_dict()) == ["of.tokens.weight"] and len(list(condition.parameters())) == 1
    assert condition.to("meta").nothing.device.type == "meta"


def test_two_images_are_too_many():
    with pytest.raises(ValueError, match="Masked is of an image as LowResolution is.*take label, text or none"):
        LowResolution(Folded(), of=Masked(Folded()))


def test_nothing_to_count_by_is_told():
    with pytest.raises(KeyError, match=r"batch\['image'\].*has only other"):
        Masked(Folded())({"other": 1})
