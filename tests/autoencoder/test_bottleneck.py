import math

import torch
from torch.distributions import Normal, kl_divergence

from ldm.autoencoder.bottleneck import DiagonalGaussian, Identity, Posterior


def test_kl_is_torchs():
    mean, std = torch.randn(3, 4, 2, 2), torch.rand(3, 4, 2, 2) + 0.1
    wanted = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(Posterior(mean, std).kl(), wanted)
    assert Posterior(mean, torch.zeros_like(std)).kl().isposinf().all()


def test_samples_have_the_posteriors_moments():
    mean, std = torch.full((100_000, 1, 1, 1), 2.0), torch.full((100_000, 1, 1, 1), 0.5)
    z = Posterior(mean, std).sample(torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)))
    assert abs(z.mean() - 2) < 5 * 0.5 / math.sqrt(len(z)) and abs(z.std() - 0.5) < 0.01
    assert torch.equal(Posterior(mean, std).mode, mean)


def test_gaussian_reads_mean_and_log_variance():
    h = torch.randn(2, 6, 4, 4)
    coded = DiagonalGaussian(3)(h, torch.ones(2, 3, 4, 4))
    mean, log_variance = h[:, :3], h[:, 3:]
    torch.testing.assert_close(coded.z, mean + torch.exp(log_variance / 2))
    torch.testing.assert_close(coded.terms["kl"], Posterior(mean, torch.exp(log_variance / 2)).kl().mean())


def test_extreme_log_variances_stay_finite():
    h = torch.cat([torch.zeros(1, 1, 1, 2), torch.tensor([[[[-1e4, 1e4]]]])], dim=1).requires_grad_()
    coded = DiagonalGaussian(1)(h, torch.ones(1, 1, 1, 2))
    (coded.z.sum() + coded.terms["kl"]).backward()
    assert coded.z.isfinite().all() and h.grad.isfinite().all()


def test_half_precision_is_widened():
    assert DiagonalGaussian(1).posterior(torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16)).std.dtype == torch.float32


def test_identity_is_the_identity():
    h = torch.randn(2, 3, 4, 4)
    coded = Identity()(h, torch.ones_like(h))
    assert torch.equal(coded.z, h) and coded.posterior.std.abs().max() == 0 and not coded.terms


def test_log_variances_are_held_between_minus_30_and_20():
    h = torch.tensor([0.0, -40.0, 0.0, -29.0, 0.0, 30.0]).view(3, 2, 1, 1)
    wanted = torch.tensor([-30.0, -29.0, 20.0]).mul(0.5).exp()
    torch.testing.assert_close(DiagonalGaussian(1).posterior(h).std.flatten(), wanted)
