"""Bits per dimension of pixels, against laws whose bits are known."""

import math

import pytest
import torch
from torch.distributions import Normal as Gaussian

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.dequantised import Dequantised
from ldm.condition.none import Unconditional
from ldm.metric.bits_per_dim import BitsPerDim
from ldm.metric.metric import Examples
from ldm.model import LatentModel
from ldm.prior.base import Latents, Likelihood, Prior
from ldm.prior.normal import Normal
from ldm.types import ContextShape

SHAPE = (3, 40, 40)


def model(means: list[float], deviations: list[float]) -> LatentModel:
    """Pixels of the three channels normal with these means and deviations, in levels of 256."""
    autoencoder = Autoencoder(SHAPE, Pixels, Pixels, Dequantised())
    autoencoder.set_statistics(torch.tensor(means) / 127.5 - 1, torch.tensor(deviations) / 127.5)
    return LatentModel(autoencoder, Unconditional(), Normal(Latents(SHAPE), ContextShape())).eval()


def images(means: list[float], deviations: list[float], count: int = 8) -> torch.Tensor:
    """Of 256 levels, normal by their quantiles, in any order."""
    number = count * SHAPE[1] * SHAPE[2]
    quantiles = Gaussian(0.0, 1.0).icdf((torch.arange(number) + 0.5) / number)
    channels = []
    for mean, deviation in zip(means, deviations, strict=True):
        values = (mean + deviation * quantiles[torch.randperm(number)]).round().clamp(0, 255)
        channels.append(values.view(count, 1, *SHAPE[1:]))
    return torch.cat(channels, 1) / 127.5 - 1


def measured(metric: BitsPerDim, one: LatentModel, x: torch.Tensor, rows: int = 3):
    for first in range(0, len(x), rows):
        part, index = x[first : first + rows], torch.arange(first, min(first + rows, len(x)))
        batch = {"image": part, "index": index}
        metric.add(Examples(part, part, None, [], index, model=one, batch=batch))
    return metric.measure()


def test_gaussian_pixels_take_the_bits_of_their_entropy():
    """log2(s sqrt(2 pi e)) of each channel, plus what a level and its noise add to the variance, 1/12 each."""
    means, deviations = [120.0, 128.0, 140.0], [20.0, 15.0, 10.0]
    [found] = measured(BitsPerDim(), model(means, deviations), images(means, deviations))
    wanted = sum(math.log2(s * math.sqrt(2 * math.pi * math.e)) + math.log2(math.e) / (12 * s**2) for s in deviations)
    assert found.value == pytest.approx(wanted / 3, abs=1e-3)
    assert (found.metric, found.kind, found.n) == ("bits_per_dim", "bound", 8)
    assert 0 < found.standard_error < 0.02 and found.reference_hash


def test_draws_close_the_bound():
    """Where a level is as wide as the law, one draw is a bound, and many are the probability itself:
    P = Phi((v + 1/2 - m) / s) - Phi((v - 1/2 - m) / s)."""
    means, s = [128.0, 128.0, 128.0], 0.4
    levels = torch.tensor([127.0, 128.0, 128.0]).view(1, 3, 1, 1).expand(2, *SHAPE)
    law = Gaussian(128.0, s)
    bits = -(law.cdf(levels + 0.5) - law.cdf(levels - 0.5)).log2().mean().item()
    one, x = model(means, [s] * 3), levels / 127.5 - 1
    [bound] = measured(BitsPerDim(), one, x)
    assert bound.value > bits + 0.1

    # The mean density of so many numbers at once converges slowly: each pixel as an image of its own.
    small = Autoencoder((1, 1, 1), Pixels, Pixels, Dequantised())
    small.set_statistics(torch.tensor([128 / 127.5 - 1]), torch.tensor([s / 127.5]))
    single = LatentModel(small, Unconditional(), Normal(Latents((1, 1, 1)), ContextShape())).eval()
    pixels = x[0, :, 0, 0].view(3, 1, 1, 1).repeat(20, 1, 1, 1)
    [close] = measured(BitsPerDim(draws=500), single, pixels, rows=60)
    assert close.value == pytest.approx(bits, abs=0.02)


def test_fewer_levels_take_fewer_bits():
    """The width of a level counts: 5 bits of a density are log2((levels - 1) / 31) fewer than 8."""
    means, deviations = [120.0] * 3, [20.0] * 3
    one, x = model(means, deviations), images(means, deviations)
    [eight], [five] = measured(BitsPerDim(), one, x), measured(BitsPerDim(levels=32), one, x)
    assert eight.value - five.value == pytest.approx(math.log2(255 / 31), abs=0.05)


def test_it_is_the_same_for_any_batches():
    means, deviations = [120.0] * 3, [20.0] * 3
    one, x, metric = model(means, deviations), images(means, deviations), BitsPerDim()
    index = torch.arange(len(x))
    metric.add(Examples(x, x, None, [], index, model=one, batch={"image": x, "index": index}))
    assert metric.measure()[0].value == pytest.approx(measured(BitsPerDim(), one, x)[0].value, abs=1e-6)


class Even(Prior, Likelihood):
    """Every level of every number is as probable as any other."""

    reads = "pixels"
    kind = "exact"

    def loss(self, z, c, random=None):
        return {"nll": -self.log_prob(z, c).mean()}

    def sample(self, shape, c, random=None):
        return (256 * random.uniform("level", tuple(shape[1:]))).floor() / 127.5 - 1

    def log_prob(self, z, c, random=None):
        assert ((z + 1) * 127.5 - ((z + 1) * 127.5).round()).abs().max() < 1e-3, "levels, and nothing between them"
        return torch.full((len(z),), -z[0].numel() * math.log(256))


def test_a_probability_of_levels_is_exact():
    autoencoder = Autoencoder(SHAPE, Pixels, Pixels, Dequantised())
    even = LatentModel(autoencoder, Unconditional(), Even(Latents(SHAPE, pixels=True), ContextShape())).eval()
    [found] = measured(BitsPerDim(), even, images([120.0] * 3, [20.0] * 3))
    assert found.value == pytest.approx(8, abs=1e-6) and found.kind == "exact"


def test_an_estimate_says_so(monkeypatch):
    one = model([120.0] * 3, [20.0] * 3)
    monkeypatch.setattr(one.prior, "kind", "estimate")
    assert measured(BitsPerDim(), one, images([120.0] * 3, [20.0] * 3))[0].kind == "estimate"
