"""Perceptual numbers of reconstructions are the distance's and the peer's, of images in 8 bits."""

import pytest
import torch
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from ldm.eight_bits import eight_bits
from ldm.loss.perceptual import Perceptual
from ldm.metric.metric import Examples
from ldm.metric.ms_ssim import MultiscaleSSIM
from ldm.metric.perceptual import PerceptualDistances


class Absolute(Perceptual):
    def forward(self, x, y):
        return (x - y).abs().flatten(1).mean(1)


class Square(Perceptual):
    def forward(self, x, y):
        return (x - y).square().flatten(1).mean(1)


def measured(metric, x, y, batch=2):
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        metric.add(Examples(a, b, None, [""] * len(a), torch.arange(len(a))))
    return metric.measure()


def test_each_distance_is_a_mean_over_images_in_eight_bits():
    x = torch.full((3, 3, 4, 4), 100.0)
    y = x + torch.tensor([10.4, 20.0, 39.6]).view(3, 1, 1, 1)  # 10, 20 and 40 levels
    found = measured(PerceptualDistances({"l1": Absolute(), "l2": Square()}), x / 127.5 - 1, y / 127.5 - 1)
    levels = torch.tensor([10.0, 20.0, 40.0]) / 127.5
    for each, wanted in zip(found, (levels, levels.square()), strict=True):
        assert each.value == pytest.approx(wanted.mean().item(), rel=1e-5) and each.n == 3
        assert each.standard_error == pytest.approx(wanted.std().item() / 3**0.5, rel=1e-5)
    assert [(each.metric, each.features, each.rounded) for each in found] == [("l1", "l1", True), ("l2", "l2", True)]


def test_without_an_image_there_is_no_distance(caplog):
    assert PerceptualDistances({"l1": Absolute()}).measure() == [] and "l1 is left out" in caplog.text


def test_ms_ssim_is_the_peers():
    x = torch.rand(2, 1, 176, 180) * 2 - 1
    y = (x + 0.2 * torch.randn_like(x)).clamp(-1, 1)
    peer = MultiScaleStructuralSimilarityIndexMeasure(data_range=255.0)
    [found] = measured(MultiscaleSSIM(), x, y, batch=1)
    assert found.value == pytest.approx(float(peer(eight_bits(y).float(), eight_bits(x).float())), rel=1e-4)
    assert (found.metric, found.n, found.rounded) == ("ms_ssim", 2, True)


def test_small_images_have_no_ms_ssim(caplog):
    x = torch.zeros(2, 1, 175, 200)
    assert measured(MultiscaleSSIM(), x, x) == []
    assert "ms_ssim is left out: it needs images of at least 176 x 176 pixels, and here are 175 x 200" in caplog.text
