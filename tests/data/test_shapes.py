import math

import numpy as np
import pytest

from ldm.data.shapes import (
    _COLOURS,
    _GROUNDS,
    ATTRIBUTES,
    LABELS,
    Shapes,
    caption,
    combinations,
    parse,
    render,
)


def still(shape: str, size: str = "large", place: str = "middle", colour: str = "red", ground: str = "black", turn=0.0):
    """The picture without jitter, or only turned by 8 `turn` degrees, 96 pixels wide, as coverage in [0, 1]."""
    words = {"colour": colour, "shape": shape, "size": size, "place": place, "background": ground}
    attributes = np.array([[ATTRIBUTES[name].index(word) for name, word in words.items()]])
    red = render(attributes, np.eye(8)[3:4] * turn, 96)[0, ..., 0].astype(float)
    return (red - red.min()) / (red.max() - red.min())


def test_an_item_has_a_picture_a_caption_and_its_attributes():
    data = Shapes(5, "train", size=24)
    item = data[3]
    assert item["image"].shape == (24, 24, 3) and item["image"].dtype == np.uint8
    assert parse(item["caption"]) == {name: item[name] for name in ATTRIBUTES}
    assert data.classes[item["label"]] in item["caption"]
    assert {key: value for key, value in item.items() if key != "image"} == data.facts(3)
    assert len(data) == 5 and data[-2]["caption"] == item["caption"]
    with pytest.raises(IndexError, match="5"):
        data[5]


def test_a_picture_depends_on_seed_split_and_index_alone():
    long, short = Shapes(1500, "train"), Shapes(1100, "train")
    for i in (0, 1023, 1024, 1099):
        assert (long[i]["image"] == short[i]["image"]).all() and long.facts(i) == short.facts(i)
    others = [Shapes(64, "train", seed=1), Shapes(64, "test")]
    for other in others:
        assert sum(other.facts(i) == long.facts(i) for i in range(64)) < 8
    assert len({each.fingerprint for each in (long, short, *others)}) == 4
    assert long.fingerprint == Shapes(1500, "train").fingerprint


def test_train_lacks_a_tenth_of_the_combinations_and_test_shows_them_half_of_the_time():
    held_out = {tuple(row) for row in combinations(True).tolist()}
    total = math.prod(map(len, ATTRIBUTES.values()))
    assert len(held_out) + len(combinations(False)) == total
    assert 0.08 < len(held_out) / total < 0.12
    train, test = Shapes(3000, "train", seed=3), Shapes(1000, "test", seed=3)
    combination = lambda facts: tuple(facts[name] for name in ATTRIBUTES)  # noqa: E731
    shown = {combination(train.facts(i)) for i in range(3000)}
    assert not shown & held_out and len(shown) > 0.8 * (total - len(held_out))
    for i in range(1000):
        facts = test.facts(i)
        assert facts["unseen"] == (combination(facts) in held_out) == (i % 2 == 0)


def test_every_word_is_seen_in_training():
    for column, words in zip(combinations(False).T, ATTRIBUTES.values(), strict=True):
        assert set(column.tolist()) == set(range(len(words)))


def test_captions_are_sentences_that_can_be_read_back():
    for row in np.concatenate([combinations(True), combinations(False)]).tolist():
        attributes = dict(zip(ATTRIBUTES, row, strict=True))
        assert parse(caption(attributes)) == attributes
    assert caption(parse(" A small red circle at the top left on a white background ")) == (
        "a small red circle at the top left on a white background"
    )
    for wrong in ("", "a red circle", "a small red circle at the top left on a mauve background"):
        with pytest.raises(ValueError, match=r"cannot read the caption.*wanted 'a SIZE COLOUR SHAPE"):
            parse(wrong)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("square", (2 * 0.92) ** 2),
        ("triangle", 3 * math.sqrt(3) / 4 * 1.32**2),
        ("star", 10 * 0.5 * 1.36**2 * 0.46 * math.sin(math.pi / 5)),
    ],
)
def test_coverage_is_the_area_of_the_outline(shape, area):
    radius = 96 * (0.2 + 0.225) / 2
    for turn in (-1, 0, 1):
        assert still(shape, turn=turn).sum() == pytest.approx(area * radius**2, rel=0.01)


def test_edges_are_soft_and_inside_and_outside_are_flat():
    for shape in ATTRIBUTES["shape"]:
        cover = still(shape)
        assert 0.005 < ((cover > 0.02) & (cover < 0.98)).mean() < 0.1


def test_places_are_where_they_say_and_sizes_differ():
    grid = np.arange(96) + 0.5
    for place in ATTRIBUTES["place"]:
        for size in ATTRIBUTES["size"]:
            cover = still("circle", size, place)
            x, y = (cover.sum(0) * grid).sum() / cover.sum(), (cover.sum(1) * grid).sum() / cover.sum()
            assert x == pytest.approx(96 * (0.32 if "left" in place else 0.68 if "right" in place else 0.5), abs=0.1)
            assert y == pytest.approx(96 * (0.32 if "top" in place else 0.68 if "bottom" in place else 0.5), abs=0.1)
    assert still("star", "large").sum() > 2 * still("star", "small").sum()


def test_no_shape_leaves_the_picture_or_hides_in_its_ground():
    data = Shapes(1024, "train", seed=9)
    for i in range(1024):
        image = data[i]["image"].astype(int)
        ground = image[0, 0]
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (border == ground).all(1).mean() > 0.9
        assert (np.abs(image - ground).max(-1) > 60).sum() > 15


def test_colours_are_far_from_each_other_and_from_every_ground():
    colours = np.concatenate([_COLOURS, _GROUNDS])
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + 1000 * np.eye(len(colours))
    assert apart.min() > 40
    assert len(LABELS) == len(set(LABELS)) == len(_COLOURS) * len(ATTRIBUTES["shape"])


def test_a_picture_too_small_to_tell_shapes_apart_is_refused():
    with pytest.raises(ValueError, match="at least 16 pixels"):
        Shapes(4, "train", size=8)
