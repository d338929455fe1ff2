"""A planted memoriser is found, and a model of the data's law is not."""

import math

import pytest
import torch

from ldm.metric.features import FeaturesUnavailable, RandomConv
from ldm.metric.memorisation import Memorisation, closer_than
from ldm.metric.metric import Examples
from ldm.metric.scene import RealImages, Scene


def images(count, seed):
    """Smooth images of two numbers each: where a bright spot lies."""
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    at = torch.linspace(0, 1, 16)
    d = (at[None, :, None] - u[:, 0, None, None]) ** 2 + (at[None, None, :] - u[:, 1, None, None]) ** 2
    return (2 * torch.exp(-8 * d) - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


TRAIN, HELD_OUT = images(150, 0), images(200, 1)


def real(split, x):
    return RealImages(split, range(len(x)), split, lambda rows: {"image": x[list(rows)]})


def measured(samples, **options):
    metric = Memorisation(RandomConv, **options)
    held_out = real("val", HELD_OUT)
    metric.begin(Scene(len(samples), (3, 16, 16), torch.device("cpu"), held_out, None, real("train", TRAIN), held_out))
    for part in torch.arange(len(samples)).split(64):
        metric.add(Examples(None, None, samples[part], [""] * len(part), part))
    return {m.metric.removesuffix("_random_conv"): m for m in metric.measure()}, metric.pictures()


def test_a_model_of_the_datas_law_copies_nothing():
    found, _ = measured(images(200, 2))
    closer, copies = found["closer_to_training"], found["copies"]
    assert abs(closer.value - 0.5) < 3.5 * closer.standard_error and copies.value < 0.06
    assert (closer.n, closer.reference, copies.error) == (200, "train:150/val:200", "binomial")


def test_a_memoriser_is_found_also_where_few_are_copies():
    found, _ = measured(TRAIN[:100])
    assert found["closer_to_training"].value > 0.99 and found["copies"].value == 1.0
    few = images(200, 3)
    few[:30] = TRAIN[:30] + 0.004 * torch.randn(30, 3, 16, 16)  # half a level of 8 bits
    found, [picture] = measured(few, shown=12)
    copies = found["copies"]
    assert copies.value - 0.06 > 0.15 - 0.06 and abs(copies.value - 0.15) < 0.06
    assert copies.standard_error == pytest.approx(math.sqrt(copies.value * (1 - copies.value) / 200))
    (title, shown), (_, nearest) = picture.rows
    assert title == "sample" and len(shown) == len(nearest) == len(picture.captions) == 12
    assert (shown - nearest).abs().amax() < 0.05, "each beside the image that it is a copy of"


def test_blurred_samples_hide_copying_from_the_first_number_and_not_from_the_second():
    far = 0.5 * images(200, 4)  # another contrast, far from all training images
    far[:20] = TRAIN[:20]
    found, _ = measured(far)
    assert found["closer_to_training"].value < 0.3 and found["copies"].value == pytest.approx(0.1, abs=0.02)


def test_the_probability_of_being_closer_is_by_hand():
    value, error = closer_than(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0, 0.5, 0.5]))
    # Of 8 pairs 1 < 2, 1 < 3, 2 < 3 are closer and 2 = 2 is a half.
    assert value == 3.5 / 8
    of_d, of_other = torch.tensor([2 / 4, 1.5 / 4]), torch.tensor([1.5 / 2, 1.0, 0.0, 0.0])
    assert error == pytest.approx(math.sqrt(float(of_d.var()) / 2 + float(of_other.var()) / 4))


def test_its_error_is_the_spread():
    found = [closer_than(torch.randn(80), torch.randn(60) + 0.5) for _ in range(300)]
    values, errors = (torch.tensor(each) for each in zip(*found, strict=True))
    assert 0.85 < errors.mean() / values.std() < 1.15


def test_streamed_training_images_and_few_held_out_ones_are_said(caplog):
    metric, held_out = Memorisation(RandomConv, limit=50), real("val", HELD_OUT)
    metric.begin(Scene(4, (3, 16, 16), torch.device("cpu"), held_out, None, None, held_out))
    assert metric.measure() == [] and metric.pictures() == [] and "a stream" in caplog.text
    found, _ = measured(images(20, 5), limit=50)
    assert list(found) == ["closer_to_training"] and "at least 100 held-out images, and here are 50" in caplog.text


def test_a_network_that_is_missing_is_said_before_anything_is_measured():
    def missing():
        raise FeaturesUnavailable("no weights here")

    metric = Memorisation(missing)
    assert metric.missing() == ["no numbers of memorisation: no weights here"]
    assert not Memorisation(RandomConv).missing()
