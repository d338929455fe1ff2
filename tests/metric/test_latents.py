"""Statistics of latents against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian, Identity
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.condition.none import Unconditional
from ldm.metric.latents import LatentStatistics
from ldm.metric.metric import Examples
from ldm.model import LatentModel
from ldm.prior.base import Latents
from ldm.prior.normal import Normal


class Map(nn.Module):
    """A linear map of channels as encoder, or the first channels as decoder."""

    factor = 1

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.tensor(weight), torch.tensor(bias)

    def forward(self, x):
        return torch.einsum("oc,bchw->bohw", self.weight, x) + self.bias[:, None, None]


def model(bottleneck, weight=((1.0,),), bias=(0.0,)):
    def encoder(channels, latent):
        return Map(weight, bias)

    own = Autoencoder((1, 2, 2), encoder, lambda channels, latent: Map(((1.0,) * latent,), (0.0,)), bottleneck)
    condition = Unconditional()
    return LatentModel(own, condition, Normal(Latents(own.latent_shape), condition.shape)).eval()


def measured(own, x, batch=2):
    metric = LatentStatistics()
    for rows in torch.arange(len(x)).split(batch):
        data = {"image": x[rows], "index": rows}
        metric.add(Examples(x[rows], x[rows], None, [""] * len(rows), rows, model=own, batch=data))
    return {each.metric: each for each in metric.measure()}


def images(levels):
    return torch.tensor(levels)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


def test_moments_bits_and_the_dead_channel_of_a_gaussian():
    """mu = (2 x + 0.5, 0.3), std = (1/2, 1) for x = -1, 0, 1, of 2 x 2 places: the second says nothing of the image."""
    own = model(DiagonalGaussian(2), ((2.0,), (0.0,), (0.0,), (0.0,)), (0.5, 0.3, -2 * math.log(2), 0.0))
    own.autoencoder.set_statistics(torch.tensor([0.5, 0.3]), torch.tensor([2.0, 1.0]))
    found = measured(own, images([-1.0, 0.0, 1.0]))
    assert found["dead_channels"].value == 0.5 and found["dead_channels"].n == 3
    assert found["latent_mean_0"].value == pytest.approx(0.5, abs=1e-6)
    assert found["latent_deviation_0"].value == pytest.approx(math.sqrt(8 / 3 + 1 / 4))
    assert found["latent_mean_1"].value == pytest.approx(0.3)
    assert found["latent_deviation_1"].value == pytest.approx(1)

    def nats(mean, std):
        return (mean**2 + std**2 - 1 - 2 * math.log(std)) / 2

    raw = [4 * (nats(2 * x + 0.5, 0.5) + nats(0.3, 1)) for x in (-1, 0, 1)]
    white = [4 * (nats(x, 0.25) + nats(0, 1)) for x in (-1, 0, 1)]
    assert found["posterior_bits"].value == pytest.approx(sum(raw) / 3 / math.log(2), rel=1e-5)
    assert found["posterior_bits_whitened"].value == pytest.approx(sum(white) / 3 / math.log(2), rel=1e-5)
    deviation = torch.tensor(raw).std().item() / 3**0.5 / math.log(2)
    assert found["posterior_bits"].standard_error == pytest.approx(deviation, rel=1e-5)


def test_codes_are_counted_over_all_images():
    """Four codes of which 0 is taken by a half of the places, 1 and 2 by a quarter each."""
    own = model(VectorQuantiser(4, 1))
    own.autoencoder.bottleneck.codebook.data = torch.tensor([[-1.0], [0.0], [1.0], [9.0]])
    found = measured(own, images([-1.0, 0.1, 0.9, -0.9]), batch=3)
    assert found["code_usage"].value == 0.75
    assert found["code_perplexity"].value == pytest.approx(2**1.5)
    assert found["code_bits"].value == 4 * 2
    assert found["code_entropy_bits"].value == pytest.approx(4 * 1.5)
    assert "posterior_bits" not in found and found["dead_channels"].value == 0


def test_pixels_have_moments_and_no_bits():
    own = Autoencoder((1, 2, 2), Pixels, Pixels, Identity())
    condition = Unconditional()
    own = LatentModel(own, condition, Normal(Latents((1, 2, 2)), condition.shape)).eval()
    found = measured(own, images([-1.0, 1.0]))
    assert found.keys() == {"dead_channels", "latent_mean_0", "latent_deviation_0"}
    assert found["latent_deviation_0"].value == 1 and measured(own, images([0.5, 0.5]))["dead_channels"].value == 1


def test_without_an_image_there_is_no_number(caplog):
    assert LatentStatistics().measure() == []
    assert "at least 1 held-out image" in caplog.text
