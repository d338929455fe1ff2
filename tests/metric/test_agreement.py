"""Agreement as a metric: real images agree with their own captions, and with no others."""

import pytest
import torch

from ldm.data.shapes import Shapes
from ldm.metric.agreement import Agreement
from ldm.metric.attributes import to_image
from ldm.metric.metric import Examples


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("checker")


def examples(n, shift=0):
    data = Shapes(n, "test", seed=5)
    items = [data[i] for i in range(n)]
    images = to_image(torch.stack([torch.from_numpy(item["image"]) for item in items]))
    captions = [items[(i + shift) % n]["caption"] for i in range(n)]
    return Examples(images, images, images, captions, torch.arange(n))


def test_real_images_show_their_captions_and_no_others(cache):
    numbers = {}
    for shift in (0, 7):
        metric = Agreement(cache)
        for batch in (examples(96, shift),):
            metric.add(batch)
        numbers[shift] = {m.metric: m for m in metric.measure()}
    own, other = numbers[0], numbers[7]
    assert own["checker_accuracy"].value >= 0.99
    assert own["shows_all"].value >= 0.97 and other["shows_all"].value < 0.1
    # Half of the test set shows combinations that are never trained on.
    assert own["shows_all_seen"].n == own["shows_all_unseen"].n == 48
    p, n = other["shows_colour"].value, 96
    assert other["shows_colour"].standard_error == pytest.approx((p * (1 - p) / n) ** 0.5)
    assert len(list(cache.glob("attribute-checker-*.safetensors"))) == 1


def test_nothing_generated_is_nothing_measured():
    metric = Agreement()
    batch = examples(4)
    metric.add(Examples(batch.real, batch.reconstruction, None, batch.captions, batch.index))
    assert metric.measure() == []
