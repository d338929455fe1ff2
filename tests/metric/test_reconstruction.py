import math

import numpy
import pytest
import torch
from torchmetrics.image import StructuralSimilarityIndexMeasure

from ldm.eight_bits import eight_bits
from ldm.metric.gather import image_hashes, set_hash
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
    named = {m.reference_hash for m in (*measured(x, x * 0.5), *measured(x.flip(0), x, batch=3))}
    assert named == {set_hash(image_hashes(eight_bits(x)))}


def test_what_cannot_be_compared_is_refused():
    x = torch.zeros(2, 3, 16, 16)
    examples = object.__new__(Examples)  # its annotations refuse this too, but only under the tests
    examples.__dict__.update(real=x, reconstruction=x[:, :1])
    with pytest.raises(ValueError, match=r"came as \(2, 1, 16, 16\)"):
        ReconstructionQuality().add(examples)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (10, 40), (11, 11), (17, 13)])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_images_smaller_than_ssims_window_have_none(caplog, n, size, channels):
    x = torch.rand(n, channels, *size) * 2 - 1
    found = measured(x, x * 0.9)
    assert [(m.metric, m.n) for m in found] == [("psnr", n), ("ssim", n)][: 1 + (min(size) >= 11)]
    assert all(math.isfinite(m.value) and (m.standard_error is None) == (n == 1) for m in found)
    said = [record.getMessage() for record in caplog.records]
    wanted = "ssim is left out: it needs images of at least 11 x 11 pixels, and here are "
    assert said == ([wanted + f"{size[0]} x {size[1]}"] if min(size) < 11 else [])


def test_without_an_image_there_is_no_number(caplog):
    assert ReconstructionQuality().measure() == []
    assert "psnr, ssim are left out: they need at least 1 image, and here are 0" in caplog.text


def test_images_are_compared_in_eight_bits():
    """Errors below half a level are none; 0.6 of a level is one level."""
    x = torch.full((2, 3, 12, 12), 100.0)
    assert measured(levels(x), levels(x + 0.4))[0].value == 100
    assert measured(levels(x), levels(x + 0.6))[0].value == pytest.approx(20 * math.log10(255))


def gaussian_ssim(x, y):
    """Of two images (h, w) of levels, by the paper's formula in plain numpy, at every pixel of mirrored images."""
    x, y = numpy.pad(x, 5, mode="reflect"), numpy.pad(y, 5, mode="reflect")
    i = numpy.arange(11) - 5
    w = numpy.exp(-(i**2) / (2 * 1.5**2))
    w = numpy.outer(w, w) / w.sum() ** 2
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for r in range(x.shape[0] - 10):
        for c in range(x.shape[1] - 10):
            a, b = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, ab = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
            found.append((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return numpy.mean(found)


def test_ssim_is_its_formula():
    torch.manual_seed(0)
    x = torch.randint(90, 170, (2, 1, 14, 13)).float()  # a part of the range, which is 255 whatever the images hold
    y = x + torch.randint(-30, 30, x.shape)
    wanted = [gaussian_ssim(a[0].double().numpy(), b[0].double().numpy()) for a, b in zip(x, y, strict=True)]
    _, ssim = measured(levels(x), levels(y))
    assert ssim.value == pytest.approx(numpy.mean(wanted), rel=1e-6)
    assert ssim.standard_error == pytest.approx(numpy.std(wanted, ddof=1) / 2**0.5, rel=1e-6)
