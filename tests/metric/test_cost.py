"""Costs against what is worked out by hand."""

import pytest
import torch
from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import Identity
from ldm.autoencoder.convnet import Pixels
from ldm.condition.none import Unconditional
from ldm.cost import Spent, spending
from ldm.metric.cost import Cost
from ldm.metric.metric import Examples
from ldm.model import LatentModel
from ldm.prior.base import Latents, Prior


class Three(Prior):
    """Asks its network, a layer of 12 x 12 numbers, three times for a sample: of two rows an example the second time."""

    def __init__(self, latents, context):
        super().__init__(latents, context)
        self.layer = nn.Linear(12, 12, bias=False)

    def loss(self, z, c, random=None):
        return {"none": z.sum()}

    def networks(self):
        return [self.layer]

    def sample(self, shape, c, random=None):
        x = random.normal("prior", (12,))
        x = self.layer(torch.cat([self.layer(x)] * 2))[: len(x)]
        return self.layer(x).view(shape)


def model():
    pixels = Autoencoder((3, 2, 2), Pixels, Pixels, Identity())
    condition = Unconditional()
    return LatentModel(pixels, condition, Three(Latents((3, 2, 2)), condition.shape)).eval()


def examples(own, count, drawing):
    x = torch.zeros(count, 3, 2, 2)
    batch = {"image": x, "index": torch.arange(count)}
    return Examples(x, x, x, [""] * count, batch["index"], False, own, batch, drawing=drawing)


def measured(own, *batches):
    cost = Cost()
    for count, drawing in batches:
        cost.add(examples(own, count, drawing))
    return {each.metric: each for each in cost.measure()}


def values(found):
    return {name: each.value for name, each in found.items()}


def test_a_sample_costs_what_its_network_does():
    found = values(measured(model(), (2, None)))
    assert found == {
        "parameters": 144,
        "parameters_prior": 144,
        "sample_flops": 4 * 2 * 12 * 12,
        "network_evaluations": 4,
        "sequential_steps": 3,
    }


def test_the_rate_is_of_whole_batches_that_were_drawn_now_but_for_the_first():
    spent = [Spent(9.0, 5 * 2**20), None, Spent(1.0, 7 * 2**20), Spent(2.0), Spent(0.1)]
    found = measured(model(), *zip((8, 8, 8, 8, 3), spent, strict=True))
    rate, memory = found["samples_per_second"], found["peak_memory_process"]
    assert rate.value == pytest.approx((8 + 4) / 2) and rate.n == 8
    assert rate.standard_error == pytest.approx((8**0.5) / 2**0.5)
    assert (memory.value, memory.n) == (7, 8)
    single = measured(model(), (5, Spent(2.0)))["samples_per_second"]
    assert (single.value, single.standard_error, single.n) == (2.5, None, 5)


def test_where_nothing_was_drawn_now_there_is_no_rate(caplog):
    assert "samples_per_second" not in measured(model(), (4, None))
    assert "samples_per_second is left out: it needs a batch that is drawn now" in caplog.text
    assert Cost().measure() == []


def test_training_costs_both_stages_or_says_one():
    own = model()
    own.cost = {"second": {"images": 600, "seconds": 3.0, "flops": 10**15 + 1}}
    found = values(measured(own, (2, None)))
    assert found["training_seconds"] == found["training_seconds_second"] == 3  # pixels learn nothing
    assert found["training_flops"] == 10**15 + 1 and found["training_images_per_second_second"] == 200
    own.autoencoder.weight = nn.Parameter(torch.zeros(1))
    assert "training_seconds" not in values(measured(own, (2, None))), "the first stage was given"
    own.cost["first"] = {"images": 10, "seconds": 2.0}
    found = values(measured(own, (2, None)))
    assert found["training_seconds"] == 5 and "training_flops" not in found and "training_flops_second" in found


def test_memory_begins_anew():
    """64 MiB that are let go within the block are in its peak and not in that of the next block."""
    peaks = []
    for size in (2**24, 1):
        with spending(torch.device("cpu")) as spent:
            torch.ones(size).sum()
        peaks.append(spent.memory)
    assert peaks[0] == peaks[1] == 0 or peaks[0] - peaks[1] > 2**25, "unless the system does not say"
