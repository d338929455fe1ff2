import math

import pytest
import torch
from torchmetrics.image import StructuralSimilarityIndexMeasure

from ldm.metric.features import eight_bits
from ldm.metric.metric import Examples
from ldm.metric.reconstruction import ReconstructionQuality


def measured(x, y, batch=4):
    metric = ReconstructionQuality()
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        metric.add(Examples(a, b, None, [""] * len(a), torch.arange(len(a))))
    return metric.measure()


def levels(images):
    return images / 127.5 - 1


def test_psnr_of_known_errors():
    x = torch.full((6, 3, 16, 16), 100.0)
    error = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    psnr, _ = measured(levels(x), levels(x + error.view(-1, 1, 1, 1)))
    each = [20 * math.log10(255 / e) for e in error.tolist()]
    assert psnr.value == pytest.approx(sum(each) / 6, rel=1e-6)
    assert psnr.standard_error == pytest.approx(float(torch.tensor(each).std()) / 6**0.5, rel=1e-5)
    assert psnr.metric == "psnr" and psnr.n == 6 and psnr.rounded


def test_without_error_it_is_100_db():
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    psnr, ssim = measured(x, x)
    assert (psnr.value, psnr.standard_error) == (100, 0) and ssim.value == pytest.approx(1)


def test_ssim_is_the_peers():
    torch.manual_seed(0)
    x = torch.rand(5, 3, 24, 20) * 2 - 1
    y = (x + 0.3 * torch.randn_like(x)).clamp(-1, 1)
    peer = StructuralSimilarityIndexMeasure(data_range=(0.0, 255.0))
    assert measured(x, y)[1].value == pytest.approx(float(peer(eight_bits(y).float(), eight_bits(x).float())), rel=1e-4)


def test_the_images_are_named_whatever_their_batches():
    x = torch.rand(6, 1, 16, 16) * 2 - 1
    assert measured(x, x)[0].reference_hash == measured(x.flip(0), x, batch=3)[0].reference_hash


def test_what_cannot_be_compared_is_refused():
    x = torch.zeros(2, 3, 16, 16)
    examples = object.__new__(Examples)  # its annotations refuse this too, but only under the tests
    examples.__dict__.update(real=x, reconstruction=x[:, :1])
    with pytest.raises(ValueError, match=r"came as \(2, 1, 16, 16\)"):
        ReconstructionQuality().add(examples)
    with pytest.raises(ValueError, match="SSIM looks through 11 pixels"):
        measured(x[..., :10], x[..., :10])
    with pytest.raises(ValueError, match="nothing to measure"):
        ReconstructionQuality().measure()
