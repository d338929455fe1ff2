"""The standard normal prior is torch's."""

import math

import torch

from ldm.prior.base import Latents
from ldm.prior.normal import Normal
from ldm.random import Random
from ldm.types import Context, ContextShape


def test_densities_loss_and_samples_are_torchs():
    prior, z = (
        Normal(Latents((2, 3, 4)), ContextShape()),
        torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0)),
    )
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z, Context()), wanted)
    torch.testing.assert_close(prior.loss(z, Context())["nll"], -wanted.mean())
    random = Random(3, 0, torch.arange(5))
    assert torch.equal(prior.sample((5, 2, 3, 4), Context(), random), random.normal("prior", (2, 3, 4)))
    many = prior.sample((2000, 2, 3, 4), Context(), Random(0, 0, torch.arange(2000)))
    assert abs(many.std().item() - 1) < 0.01 and abs(many.mean().item()) < 0.01


def test_the_normal_density_by_hand_whatever_the_random_numbers():
    z = torch.tensor([1.0, -2.0, 0.5, 0.0]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    prior = Normal(Latents((1, 2, 2)), ContextShape())
    wanted = torch.full((2,), -(1 + 4 + 0.25) / 2 - 2 * math.log(2 * math.pi))
    for random in (None, Random(1, 2, torch.arange(2))):
        torch.testing.assert_close(prior.log_prob(z, Context(), random), wanted)
    torch.testing.assert_close(prior.loss(z, Context())["nll"], -wanted.mean())
    random = Random(3, 0, torch.arange(2))
    assert torch.equal(prior.sample((2, 1, 2, 2), Context(), random), random.normal("prior", (1, 2, 2)))
