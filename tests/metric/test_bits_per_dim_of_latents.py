"""The bound of two-stage models against models whose density is known: everything linear and Gaussian."""

import math

import pytest
import torch
from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import Bottleneck, DiagonalGaussian, Identity
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.condition.none import Unconditional
from ldm.metric.bits_per_dim import BitsPerDim
from ldm.metric.decoder_law import DiscretisedLogistic
from ldm.metric.metric import Examples
from ldm.model import LatentModel
from ldm.prior.base import Latents
from ldm.prior.categorical import Categorical
from ldm.prior.normal import Normal
from ldm.random import Random
from ldm.types import ContextShape

# Each position by itself: colours x (3,) = w z + b + e of one latent number z ~ N(m, s^2), e ~ N(0, v).
W, B, V = (
    torch.tensor([0.12, -0.08, 0.05], dtype=torch.float64),
    torch.tensor([0.1, 0.0, -0.1], dtype=torch.float64),
    0.01,
)
M, S = 0.4, 1.2
SIDE, COUNT = 16, 256

ONE, ZERO = torch.ones(1, 1), torch.zeros(1)


class Linear(nn.Module):
    """A 1 x 1 convolution that an autoencoder takes for a network."""

    factor = 1

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        with torch.no_grad():
            self.layer.weight.copy_(weight[:, :, None, None])
            self.layer.bias.copy_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def model(wider: float = 1.0, bottleneck: Bottleneck | None = None) -> LatentModel:
    """With the exact posterior of z, but for its deviation, `wider` times the right one."""
    precision = 1 / S**2 + W @ W / V
    to_mean = W / V / precision
    log_variance = -precision.log() + 2 * math.log(wider)
    weight = torch.stack([to_mean, torch.zeros_like(W)])
    bias = torch.stack([M / S**2 / precision - to_mean @ B, log_variance])
    bottleneck = bottleneck or DiagonalGaussian(1)
    rows = bottleneck.moments
    autoencoder = Autoencoder(
        (3, SIDE, SIDE),
        lambda channels, latent: Linear(weight[:rows], bias[:rows]),
        lambda channels, latent: Linear(W[:, None], B),
        bottleneck,
    )
    autoencoder.set_statistics(torch.tensor([M]), torch.tensor([S]))
    return LatentModel(autoencoder, Unconditional(), Normal(Latents((1, SIDE, SIDE)), ContextShape())).eval()


def examples(of: LatentModel) -> list[Examples]:
    """8-bit images that were drawn from the model, in two batches."""
    generator = torch.Generator().manual_seed(3)
    z = M + S * torch.randn(COUNT, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    noise = V**0.5 * torch.randn(COUNT, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    x = z * W[:, None, None] + B[:, None, None] + noise
    levels = ((x + 1) * 127.5).round()
    assert levels.min() >= 0 and levels.max() <= 255, "nothing is cut off"
    x = (levels / 127.5 - 1).float()
    return [
        Examples(part, part, None, [""] * len(part), rows, model=of, batch={"image": part})
        for part, rows in zip(x.split(200), torch.arange(COUNT).split(200), strict=True)
    ]


def measured(of: LatentModel, draws: int = 1) -> float:
    metric = BitsPerDim(draws)
    for batch in examples(of):
        metric.add(batch)
    [found] = metric.measure()
    assert (found.n, found.kind) == (COUNT, "bound") and 0 < found.standard_error < 0.01
    assert found.metric == ("bits_per_dim" if draws == 1 else f"bits_per_dim_{draws}")
    return found.value


def exact() -> float:
    """Bits per number of the same dequantised images under the Gaussian that the model is: covariance s^2 w w' + v."""
    spread = [Random(0, 0, batch.index).uniform("dequantisation", (3, SIDE, SIDE)) - 0.5 for batch in examples(model())]
    x = (torch.cat([batch.real for batch in examples(model())]) + torch.cat(spread) / 127.5).double()
    covariance = S**2 * torch.outer(W, W) + V * torch.eye(3, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(W * M + B, covariance)
    return -law.log_prob(x.movedim(1, -1)).mean().item() / (3 * math.log(2)) + math.log2(127.5)


@pytest.mark.parametrize("draws", [1, 4])
def test_with_the_exact_posterior_the_bound_is_the_density(draws):
    assert measured(model(), draws) == pytest.approx(exact(), abs=1e-3)


def test_a_posterior_that_is_too_wide_costs_its_divergence_and_draws_buy_it_back():
    """In the limit of many images: KL(q || posterior) = (r^2 - 1)/2 - log r a latent number, for a deviation r times too
    large; and the decoder's variance is larger by what the wider draws add to the error, which costs its own."""
    r = 1.3
    precision = (1 / S**2 + W @ W / V).item()
    added = (r**2 - 1) * (W @ W).item() / precision / 3  # to the squared error of a number
    v = V + added
    # 3/2 log v in place of 3/2 log V, as |x - y|^2 / v is 3 in both; prior and entropy of q move with r
    nats = 1.5 * math.log(v / V) + 0.5 * (r**2 - 1) / precision / S**2 - math.log(r)
    one = measured(model(r))
    assert one - exact() == pytest.approx(nats / (3 * math.log(2)), abs=2e-3)
    many = measured(model(r), draws=4)
    assert exact() - 1e-3 < many < one


def test_codes_cost_what_the_prior_says_of_them():
    """Of two codes, black and white, that a prior holds for equally probable: log 2 a position, and the decoder's Gaussian, whose
    error is that of the dequantisation alone: 1/12 of a squared level."""
    quantiser = VectorQuantiser(2, 1)
    autoencoder = Autoencoder(
        (1, 8, 8), lambda channels, latent: Linear(ONE, ZERO), lambda channels, latent: Linear(ONE, ZERO), quantiser
    )
    with torch.no_grad():
        quantiser.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    prior = Categorical(Latents((1, 8, 8), codes=2), ContextShape())
    of = LatentModel(autoencoder, Unconditional(), prior).eval()
    real = (torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float() * 2 - 1
    metric = BitsPerDim()
    metric.add(Examples(real, real, None, [""] * 500, torch.arange(500), model=of, batch={"image": real}))
    [found] = metric.measure()
    gaussian = 0.5 * math.log2(2 * math.pi * math.e / 12)  # in levels, so that no width is left to count
    assert found.value == pytest.approx(1 + gaussian, abs=5e-3)


def test_levels_of_a_discretised_logistic_decoder():
    """Of a posterior that is the prior, the bound is -log2 P(x) about the decoder's bias, whose scale is found among the list."""
    bias, s = torch.tensor([-0.9]), math.exp(-2.0)
    autoencoder = Autoencoder(
        (1, SIDE, SIDE),
        lambda channels, latent: Linear(torch.zeros(2, 1), torch.zeros(2)),
        lambda channels, latent: Linear(torch.zeros(1, 1), bias),
        DiagonalGaussian(1),
    )
    of = LatentModel(autoencoder, Unconditional(), Normal(Latents((1, SIDE, SIDE)), ContextShape())).eval()
    edges = torch.sigmoid(((torch.arange(255) + 0.5) / 127.5 - 1 - bias.double()) / s)
    mass = torch.cat([edges, torch.ones(1)]) - torch.cat([torch.zeros(1), edges])
    levels = torch.multinomial(mass, COUNT * SIDE**2, replacement=True).view(COUNT, 1, SIDE, SIDE)
    real = (levels / 127.5 - 1).float()
    metric = BitsPerDim(draws=2, decoder=DiscretisedLogistic())
    metric.add(Examples(real, real, None, [""] * COUNT, torch.arange(COUNT), model=of, batch={"image": real}))
    [found] = metric.measure()
    assert found.kind == "bound" and found.value == pytest.approx(-mass[levels].log2().mean().item(), abs=1e-4)


def test_a_law_of_other_levels_is_refused():
    with pytest.raises(ValueError, match="a law of 256 levels, and here are levels=32"):
        BitsPerDim(levels=32, decoder=DiscretisedLogistic())


def test_a_deterministic_encoder_has_no_bound(caplog):
    metric = BitsPerDim()
    for batch in examples(model(bottleneck=Identity(1))):
        metric.add(batch)
    assert metric.measure() == []
    assert "bits_per_dim is left out: it needs a prior that gives densities of pixels, of codes" in caplog.text
    assert "Normal over what Identity gives" in caplog.text
