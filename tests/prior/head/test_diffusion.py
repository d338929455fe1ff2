"""The diffusion of a position, with a denoiser that is exact for a Gaussian about the network's numbers: closed forms of its
density, draws, temperature and guidance; and by hand, which position is trained by which numbers."""

import functools
import math

import pytest
import torch
from torch import nn

from ldm.backbone.mlp import MLP
from ldm.diffusion.grid import Uniform
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.likelihood import Exact, Flow
from ldm.diffusion.parameterization import Data, Velocity
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.sampler.ddpm import DDPM
from ldm.diffusion.schedule import Cosine, Rectified
from ldm.diffusion.time import LogitNormal
from ldm.diffusion.time import Uniform as UniformTimes
from ldm.diffusion.weighting import Prediction
from ldm.ode import RungeKutta
from ldm.prior.autoregressive import Autoregressive
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.prior.head.base import Bent
from ldm.prior.head.diffusion import DiffusionHead
from ldm.prior.network.transformer import Transformer
from ldm.random import Random
from ldm.types import Context, ContextShape

DEVIATION = 0.5


class Gaussian(nn.Module):
    """E[x | x_t] of N(h, deviation^2), h the only token; alpha^2 + sigma^2 = 1. It remembers which log SNRs it was asked at."""

    def __init__(self, channels, context, deviation=DEVIATION):
        super().__init__()
        self.deviation, self.asked = deviation, []

    def forward(self, x_t, log_snr, c):
        self.asked.append(log_snr)
        mean = c.tokens[:, 0, :, None, None]
        alpha, variance = (each.view(-1, 1, 1, 1) for each in (log_snr.sigmoid().sqrt(), (-log_snr).sigmoid()))
        gain = self.deviation**2 * alpha / (alpha**2 * self.deviation**2 + variance)
        return mean + gain * (x_t - alpha * mean)


def head(sampler=None, steps: int = 50, draws: int = 4, **options) -> DiffusionHead:
    law = functools.partial(
        Diffusion,
        backbone=functools.partial(Gaussian, **options),
        schedule=Cosine(),
        parameterization=Data(),
        weighting=Prediction(),
        time=UniformTimes(),
        sampler=sampler or DDIM(),
        grid=Uniform(),
        guidance=ClassifierFree,
        steps=steps,
        likelihood=Flow(Exact(), RungeKutta(20)),
    )
    return DiffusionHead(Latents((2, 2, 3)), law, width=2, draws=draws)


def test_density_of_each_position_is_the_gaussians():
    own, h, z = head(), torch.randn(4, 2, 2, 3), torch.randn(4, 2, 2, 3)
    wanted = torch.distributions.Normal(h, DEVIATION).log_prob(z).sum(1)
    torch.testing.assert_close(own.log_prob(h, z), wanted, rtol=1e-3, atol=1e-3)
    assert own.kind == "exact", "as its law says"


def test_each_position_is_trained_by_its_own_numbers():
    """A Gaussian of no width is the point h: nothing is left to learn where each position is at its own, and all at another's."""
    own, h = head(deviation=0.0), torch.randn(3, 2, 2, 3)
    assert own.loss(h, h, Random(0, 0, torch.arange(3))).abs().max() == 0
    other = h.flip(3)
    found = own.loss(h, other, Random(0, 0, torch.arange(3)))
    torch.testing.assert_close(found, (h - other).square().sum(1))


def test_noise_levels_are_stratified_over_positions_and_draws():
    """Of 3 x 6 x 4 times in all there is one in each of 72 intervals, in whichever batches the examples come."""
    own, h, random = head(), torch.zeros(3, 2, 2, 3), Random(0, 5, torch.arange(3))
    whole = own.loss(h, h, random)
    parts = [own.loss(h[rows], h[rows], random[rows]) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(torch.cat(parts), whole)
    [all_at_once, *_] = own.law.denoiser.backbone.asked
    t = own.law.denoiser.schedule.time(all_at_once.double())
    assert sorted(((t - 1e-3) / (1 - 1e-3) * 72).floor().long().tolist()) == list(range(72))
    assert len(whole.unique()) == whole.numel(), "noise of its own at each position"


def test_loss_is_that_of_the_diffusion():
    """Its expectation for an exact denoiser is the variance of x given x_t, s^2 sigma^2 / (alpha^2 s^2 + sigma^2), a channel."""
    own, n = head(draws=16), 2_000
    h = torch.zeros(n, 2, 2, 3)
    found = own.loss(h, DEVIATION * torch.randn(n, 2, 2, 3), Random(0, 0, torch.arange(n))).mean()
    alpha, sigma = own.law.denoiser.schedule.alpha_sigma(1e-3 + (1 - 1e-3) * (torch.arange(1000) + 0.5) / 1000)
    variance = DEVIATION**2 * sigma**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    torch.testing.assert_close(found, 2 * variance.mean(), rtol=0.01, atol=0)


def drawn(own: DiffusionHead, bent: Bent, null: list[float] | None = None, n: int = 4_000) -> torch.Tensor:
    h = torch.tensor([[0.3, -0.2]]).expand(n, -1)
    other = None if null is None else torch.tensor([null]).expand(n, -1)
    return own.draw(h, other, bent, Random(0, 0, torch.arange(n)), "position 0")


@pytest.mark.parametrize(
    ("bent", "null", "mean", "variance"),
    [
        (Bent(), None, [0.3, -0.2], 1.0),
        (Bent(temperature=0.5), None, [0.3, -0.2], 0.5),
        (Bent(guidance=2.0), [0.0, 0.1], [0.6, -0.5], 1.0),
        (Bent(guidance=2.0, temperature=0.25), [0.0, 0.1], [0.6, -0.5], 0.25),
    ],
)
@torch.no_grad()
def test_draws_are_the_gaussians(bent, null, mean, variance):
    """Of Gaussians with one deviation p_c (p_c / p_0)^(s - 1) is one at m_0 + s (m_c - m_0); its power 1 / T has T times the
    variance."""
    z = drawn(head(), bent, null)
    torch.testing.assert_close(z.mean(0), torch.tensor(mean), rtol=0, atol=0.04)
    torch.testing.assert_close(z.std(0), torch.full((2,), DEVIATION * math.sqrt(variance)), rtol=0.05, atol=0)


@torch.no_grad()
def test_each_place_has_noise_of_its_own():
    own, h, random = head(steps=2), torch.zeros(2, 2), Random(0, 0, torch.arange(2))
    one, two = (own.draw(h, None, Bent(), random, name) for name in ("position 0", "position 1"))
    assert len(torch.cat([one, two]).unique()) == 8


def test_a_temperature_without_effect_is_refused():
    own = head(DDPM(), steps=2)
    assert drawn(own, Bent(), n=3).isfinite().all()
    with pytest.raises(ValueError, match="noise that a draw begins from, and DDPM adds other noise on the way"):
        drawn(own, Bent(temperature=0.9), n=3)


def test_it_models_latents():
    assert {DiffusionHead.reading(gives) for gives in ("latents", "codes", "pixels")} == {"latents"}


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_law_of_two_modes_is_learnt_through_the_network():
    """Of two positions the second is the first one plus or minus 1, and which of the two nobody knows."""
    law = functools.partial(
        Diffusion,
        backbone=functools.partial(MLP, width=64, depth=2),
        schedule=Rectified(),
        parameterization=Velocity(),
        weighting=Prediction(),
        time=LogitNormal(),
        sampler=DDIM(),
        grid=Uniform(),
        guidance=ClassifierFree,
        steps=30,
    )
    network = functools.partial(Transformer, width=32, depth=1, heads=2)
    own = functools.partial(DiffusionHead, law=law, width=32)
    prior = Autoregressive(Latents((1, 1, 2)), ContextShape(), network, own)
    optimizer = torch.optim.Adam(prior.parameters(), 3e-3)
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min((step + 1) / 50, 1) * (1 - step / steps)
        first = torch.randn(64, 1, 1, 1)
        z = torch.cat([first, first + torch.randint(2, first.shape) * 2 - 1 + 0.1 * torch.randn_like(first)], 3)
        optimizer.zero_grad()
        prior.loss(z / 2**0.5, Context())["diffusion"].backward()
        optimizer.step()
    z = 2**0.5 * prior.eval().sample((2_000, 1, 1, 2), Context(), Random(0, 0, torch.arange(2_000)))
    apart = (z[..., 1] - z[..., 0]).flatten()
    assert abs((apart > 0).float().mean() - 0.5) < 0.06
    assert ((apart.abs() - 1).abs() < 0.4).float().mean() > 0.9
