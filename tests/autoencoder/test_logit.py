"""Pixels as logits: drawn within their level, rounded what they were, and every Jacobian counted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.convnet import Pixels
from ldm.autoencoder.logit import LogitDequantised
from ldm.condition.none import Unconditional
from ldm.metric.bits_per_dim import BitsPerDim
from ldm.metric.metric import Examples
from ldm.model import LatentModel
from ldm.prior.base import Latents, Likelihood, Prior
from ldm.types import ContextShape


def levels() -> torch.Tensor:
    """All 256 of them as an image (1, 1, 16, 16)."""
    return (torch.arange(256.0) / 127.5 - 1).view(1, 1, 16, 16)


def logits(mean: float = 0.5, std: float = 2.0) -> Autoencoder:
    autoencoder = Autoencoder((1, 16, 16), Pixels, Pixels, LogitDequantised())
    autoencoder.set_statistics(torch.tensor([mean]), torch.tensor([std]))
    return autoencoder


def test_a_draw_is_the_logit_of_a_place_in_its_level_and_rounding_gives_the_image_back():
    u = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    z = logits().encode(levels().expand(3, -1, -1, -1)).sample(Normal(0.0, 1.0).icdf(u))
    p = 1e-6 + (1 - 2e-6) * (torch.arange(256).double().view(1, 1, 16, 16) + u) / 256
    torch.testing.assert_close(z.double(), ((p / (1 - p)).log() - 0.5) / 2, rtol=1e-4, atol=1e-4)
    back = ((logits().decode(z) + 1) * 127.5).round()
    assert torch.equal(back, torch.arange(256.0).view(1, 1, 16, 16).expand(3, -1, -1, -1))


def test_whitening_twice_is_whitening_by_both():
    noise, posterior = torch.randn(1, 1, 16, 16), LogitDequantised().posterior(levels())
    one, two = (torch.tensor(each).view(1, 1, 1) for each in (0.5, 2.0))
    twice = posterior.whitened(one, two).whitened(one, two)
    torch.testing.assert_close(twice.sample(noise), ((posterior.sample(noise) - 0.5) / 2 - 0.5) / 2)
    torch.testing.assert_close(twice.mean, ((posterior.mean - 0.5) / 2 - 0.5) / 2)


def test_the_ends_are_finite():
    z = logits().encode(levels()).sample(torch.tensor([-40.0, 40.0]).repeat(128).view(1, 1, 16, 16))
    assert z.isfinite().all() and z.abs().max() < 8


def test_moments_are_those_of_the_draws():
    posterior = logits().encode(levels().flatten()[[0, 1, 100, 255]].view(4, 1, 1, 1).expand(4, 1, 16, 16))
    draws = torch.stack([posterior.sample(torch.randn(4, 1, 16, 16)) for _ in range(100)]).movedim(1, 0).flatten(1)
    error = draws.std(1) / draws.shape[1] ** 0.5
    assert ((draws.mean(1) - posterior.mean[:, 0, 0, 0]).abs() < 4 * error).all()
    torch.testing.assert_close(draws.std(1), posterior.std[:, 0, 0, 0], rtol=0.05, atol=0)


def test_a_cache_of_float16_keeps_the_levels():
    autoencoder, x = logits(), levels()
    raw, wanted = autoencoder.posterior(x), autoencoder.encode(x)
    kept, noise = autoencoder.kept(raw.mean.half().float(), raw.std.half().float()), torch.randn(1, 1, 16, 16)
    assert torch.equal(kept.sample(noise), wanted.sample(noise))
    assert torch.equal(kept.mean, wanted.mean) and torch.equal(kept.std, wanted.std)


def test_the_divergence_is_its_definition():
    """KL(q || N) by a sum over the quantiles of q."""
    posterior, autoencoder = logits().encode(levels()), logits()
    p = (
        posterior.low + (posterior.high - posterior.low) * (torch.arange(4000).view(-1, 1, 1, 1) + 0.5) / 4000
    ).double()
    z = ((p / (1 - p)).log() - 0.5) / 2
    log_q = -(posterior.high - posterior.low).double().log() + (p * (1 - p)).log() + math.log(2)
    wanted = (log_q - Normal(0.0, 1.0).log_prob(z)).mean(0).sum()
    torch.testing.assert_close(autoencoder.encode(levels()).kl().double(), wanted.view(1), rtol=1e-4, atol=0)


def test_the_latent_of_numbers_has_the_slope_of_autograd():
    x = (levels() + (torch.rand(1, 1, 16, 16) * 0.98 - 0.49) / 127.5).double().requires_grad_()
    z, log_det = LogitDequantised().raw(x)
    [slope] = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(log_det, slope.log().sum().view(1))


class Logistic(Prior, Likelihood):
    """Latents 2 z + 0.5 of which are standard logistic: the logits of uniform numbers."""

    kind = "exact"

    def loss(self, z, c, random=None):
        return {"nll": -self.log_prob(z, c).mean()}

    def sample(self, shape, c, random=None):
        return (torch.logit(random.uniform("u", tuple(shape[1:]))) - 0.5) / 2

    def log_prob(self, z, c, random=None):
        raw = 2 * z + 0.5
        return (F.logsigmoid(raw) + F.logsigmoid(-raw) + math.log(2)).flatten(1).sum(1)


def test_uniform_pixels_take_eight_bits():
    """Logit, margin and whitening are all counted: a logistic law of logits is the uniform law of levels."""
    of = LatentModel(logits(), Unconditional(), Logistic(Latents((1, 16, 16)), ContextShape())).eval()
    real = levels().expand(4, -1, -1, -1)
    metric = BitsPerDim()
    metric.add(Examples(real, real, None, [""] * 4, torch.arange(4), model=of, batch={"image": real}))
    [found] = metric.measure()
    assert found.value == pytest.approx(8, abs=1e-4) and found.kind == "bound"


def test_logits_are_no_pixels_and_one_level_is_refused():
    assert logits().gives == "latents"
    with pytest.raises(ValueError, match="levels=256"):
        LogitDequantised(1)
