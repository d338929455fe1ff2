"""The Gaussian mixture is torch's, begins where the data are, and finds a mixture that it is given."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ldm.prior.base import Latents
from ldm.prior.mixture import Mixture
from ldm.random import Random
from ldm.types import Context, ContextShape

SHAPE = (2, 3, 1)


def made(over: str = "latent", context: ContextShape | None = None, **options) -> Mixture:
    torch.manual_seed(0)
    prior = Mixture(Latents(SHAPE), context or ContextShape(), components=4, over=over, **options)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return prior


def peer(prior: Mixture) -> MixtureSameFamily:
    """torch's law of one whole latent, or of the channels at each position."""
    means, deviations, logits = prior.means, prior.deviations, prior.logits
    if prior.over == "latent":
        return MixtureSameFamily(Categorical(logits=logits.flatten()), Independent(Normal(means, deviations), 3))
    places = [each.permute(2, 3, 0, 1) for each in (means, deviations)]  # (h, w, k, c)
    parts = Independent(Normal(*places), 1)
    return MixtureSameFamily(Categorical(logits=logits.permute(1, 2, 0)), parts)


@pytest.mark.parametrize("over", ["latent", "position"])
def test_densities_are_torchs(over):
    prior, z = made(over), torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    law = peer(prior)
    wanted = law.log_prob(z) if over == "latent" else law.log_prob(z.permute(0, 2, 3, 1)).sum((1, 2))
    torch.testing.assert_close(prior.log_prob(z, Context()), wanted)
    torch.testing.assert_close(prior.loss(z, Context())["nll per dimension"], -wanted.mean() / 6)


@pytest.mark.parametrize("over", ["latent", "position"])
def test_samples_have_the_moments_of_the_law(over):
    n, prior = 40_000, made(over)
    with torch.no_grad():
        z, law = prior.sample((n, *SHAPE), Context(), Random(0, 0, torch.arange(n))), peer(prior)
    mean, variance = law.mean, law.variance
    if over == "position":
        mean, variance = mean.permute(2, 0, 1), variance.permute(2, 0, 1)
    assert ((z.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(z.var(0), variance, rtol=0.05, atol=0)
    torch.testing.assert_close(torch.cov(z.flatten(1).T)[0, 1], _covariance(prior, 0, 1), rtol=0, atol=0.03)


def _covariance(prior: Mixture, i: int, j: int) -> torch.Tensor:
    """Of the numbers i and j of a latent, which are channel 0 at two positions: of position-wise mixtures none."""
    if prior.over == "position":
        return torch.zeros(())
    weights, means = prior.logits.flatten().softmax(0), prior.means.flatten(1)
    centred = means - (weights[:, None] * means).sum(0)
    return (weights * centred[:, i] * centred[:, j]).sum().detach()


def test_the_context_moves_the_weights():
    """log w = log_softmax(l + W t) for one token t; without weight of its own a token changes nothing."""
    prior = made(context=ContextShape(tokens=3))
    token = torch.tensor([[[1.0, -2.0, 0.5]], [[0.0, 0.0, 0.0]]])
    wanted = (prior.logits.flatten() + prior.by_context(token[:, 0])).log_softmax(1)
    torch.testing.assert_close(prior.log_weights(Context(tokens=token))[:, :, 0, 0], wanted)


def clusters(n: int) -> torch.Tensor:
    """A quarter of the examples about -3 and three quarters about 2, deviations 0.5 and 1."""
    generator = torch.Generator().manual_seed(0)
    first = torch.arange(n) % 4 == 0
    centre, deviation = torch.where(first, -3.0, 2.0), torch.where(first, 0.5, 1.0)
    return centre.view(-1, 1, 1, 1) + deviation.view(-1, 1, 1, 1) * torch.randn(n, *SHAPE, generator=generator)


def test_components_begin_as_the_clusters_of_the_data():
    prior = Mixture(Latents(SHAPE), ContextShape(), components=2)
    z = clusters(2000)
    prior.begin((part, Context()) for part in z.split(100))
    order = prior.means.mean((1, 2, 3)).argsort()
    torch.testing.assert_close(prior.means[order].mean((1, 2, 3)), torch.tensor([-3.0, 2.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(prior.deviations[order].mean((1, 2, 3)), torch.tensor([0.5, 1.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(prior.logits[order].flatten().softmax(0), torch.tensor([0.25, 0.75]), rtol=0, atol=0.02)


def test_it_stops_reading_when_it_has_seen_enough():
    read = []

    def batches():
        for part in clusters(20_000).split(1000):
            read.append(len(part))
            yield part, Context()

    Mixture(Latents(SHAPE), ContextShape(), components=2).begin(batches())
    assert sum(read) == 5000


def test_a_floor_keeps_components_from_sitting_on_examples():
    prior = made(floor=0.3)
    with torch.no_grad():
        prior.raw_deviations.fill_(-30)
    torch.testing.assert_close(prior.deviations.min(), torch.tensor(0.3))
