"""Pixels that are drawn from the width of their level: uniform about it, and rounded they are what they were."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import Uniform as TorchUniform

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.dequantised import Dequantised, Uniform, width_of
from ldm.data.image import to_float


def levels() -> torch.Tensor:
    """All 256 of them as an image (1, 1, 16, 16), by the rule that makes images of pixels."""
    return to_float(torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1))


def test_a_draw_is_uniform_in_the_width_of_its_level():
    mean, noise = torch.zeros(1, 1, 200, 200), torch.randn(1, 1, 200, 200)
    posterior = Dequantised().posterior(mean)
    z = posterior.sample(noise)
    assert width_of(256) == pytest.approx(1 / 127.5)
    assert z.abs().max() <= 0.5 / 127.5 + 1e-9
    share = ((z * 127.5 + 0.5) * 10).long().flatten().bincount(minlength=10) / z.numel()
    torch.testing.assert_close(share, torch.full((10,), 0.1), rtol=0, atol=0.01)
    assert z.std() == pytest.approx(posterior.std[0, 0, 0, 0].item(), rel=0.02)
    at = torch.tensor([0.25, 0.5, 0.9]).view(1, 1, 1, 3)
    quantiles = Dequantised().posterior(torch.zeros(1, 1, 1, 3)).sample(Normal(0.0, 1.0).icdf(at)) * 127.5
    torch.testing.assert_close(quantiles, at - 0.5, rtol=0, atol=1e-5)


def test_rounding_gives_the_image_back():
    autoencoder, x = Autoencoder((1, 16, 16), Pixels, Pixels, Dequantised()), levels()
    autoencoder.set_statistics(torch.tensor([0.1]), torch.tensor([0.6]))
    z = autoencoder.encode(x).sample(torch.randn(1, 1, 16, 16))
    back = ((autoencoder.decode(z) + 1) * 127.5).round()
    assert torch.equal(back.flatten(), torch.arange(256.0))
    assert torch.equal(autoencoder(x, torch.zeros_like(x)).image, x) and not list(autoencoder.parameters())


def test_a_cache_of_float16_keeps_the_levels():
    """float16 rounds pixels by up to a sixteenth of a level."""
    autoencoder, x = Autoencoder((1, 16, 16), Pixels, Pixels, Dequantised()), levels()
    autoencoder.set_statistics(torch.tensor([0.1]), torch.tensor([0.6]))
    raw, wanted = autoencoder.posterior(x), autoencoder.encode(x)
    kept = autoencoder.kept(raw.mean.half().float(), raw.std.half().float())
    assert isinstance(kept, Uniform) and not torch.equal(raw.mean.half().float(), raw.mean)
    torch.testing.assert_close((kept.mean, kept.std), (wanted.mean, wanted.std))


def test_the_divergence_is_torchs():
    """KL(q || N) = -H(q) - E_q log N, where the second part is the mean of log N over the uniform law, by a fine sum."""
    posterior = Uniform(torch.tensor([0.3, -1.0]).view(1, 2, 1, 1), torch.tensor([0.2, 0.5]).view(1, 2, 1, 1))
    half = math.sqrt(3) * posterior.std
    law = TorchUniform(posterior.mean - half, posterior.mean + half)
    steps = (torch.arange(1000).double() + 0.5) / 1000
    points = (law.low + (law.high - law.low) * steps.view(-1, 1, 1, 1)).double()
    wanted = -law.entropy().double() - Normal(0.0, 1.0).log_prob(points).mean(0)
    torch.testing.assert_close(posterior.kl().double(), wanted.sum().view(1), rtol=1e-5, atol=1e-5)


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="levels=256"):
        Dequantised(1)
