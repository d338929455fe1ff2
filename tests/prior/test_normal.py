"""The standard normal prior is torch's."""

import torch

from ldm.prior.normal import Normal
from ldm.random import Random
from ldm.types import Context, ContextShape


def test_densities_loss_and_samples_are_torchs():
    prior, z = Normal((2, 3, 4), ContextShape()), torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z, Context()), wanted)
    torch.testing.assert_close(prior.loss(z, Context())["nll"], -wanted.mean())
    random = Random(3, 0, torch.arange(5))
    assert torch.equal(prior.sample((5, 2, 3, 4), Context(), random), random.normal("prior", (2, 3, 4)))
    many = prior.sample((2000, 2, 3, 4), Context(), Random(0, 0, torch.arange(2000)))
    assert abs(many.std().item() - 1) < 0.01 and abs(many.mean().item()) < 0.01
