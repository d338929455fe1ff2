"""Consistency tuning: its boundary, its two points and its loss by hand."""

import math

import pytest
import torch
from torch import nn

from ldm.backbone.mlp import MLP
from ldm.diffusion.parameterization import Data, Karras, V, Velocity
from ldm.diffusion.schedule import Cosine, Exploding, Rectified
from ldm.diffusion.time import LogNormal
from ldm.prior.base import Latents
from ldm.prior.consistency import Consistency
from ldm.random import Random
from ldm.types import Context, ContextShape

SHAPE = (2, 2, 2)
KINDS = [(Rectified, Velocity), (Cosine, V), (Exploding, Karras)]
IDS = [kind.__name__ for _, kind in KINDS]


class Ones(nn.Module):
    """F = 1."""

    def __init__(self, channels, context):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, z, log_snr, c):
        return self.weight * torch.ones_like(z)


def prior(kind=(Rectified, Velocity), network=Ones, **options) -> Consistency:
    torch.manual_seed(0)
    return Consistency(Latents(SHAPE), ContextShape(), network, kind[0](), kind[1](), LogNormal(-0.4, 2.0), **options)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_without_noise_it_is_the_identity_and_near_it_almost(kind):
    x, made = torch.randn(3, *SHAPE), prior(kind)
    assert torch.equal(made.ends(x, torch.zeros(3), Context()), x)
    torch.testing.assert_close(made.ends(x, torch.full((3,), 1e-2), Context()), x, rtol=0.02, atol=0.02)


def test_a_parameterization_without_that_boundary_is_refused():
    with pytest.raises(ValueError, match=r"identity without noise, and with Data .*parameterization=velocity"):
        prior((Rectified, Data))


def test_the_two_points_approach_each_other():
    tau = torch.tensor([0.0, 1.0, 100.0])
    n = 1 + 8 / (1 + torch.exp(tau / 2))
    for a in (0, 3, 7):
        wanted = tau * torch.clamp(1 - n / 2 ** (a + 1), min=0)
        torch.testing.assert_close(prior().nearer(tau, a), wanted)
    assert prior().nearer(tau, 0)[1] == 0, "which is the training of a diffusion"


@pytest.mark.parametrize("a", [0, 2, 5])
def test_the_loss_by_hand(a):
    """F = 1 on the straight path: f(x) = x_t - t at x_t = x / (1 + tau), t = tau / (1 + tau)."""
    made, random = prior(every=10), Random(0, 0, torch.arange(5))
    z, eps = random.normal("z", SHAPE), random.normal("noise", SHAPE)
    log_tau = -0.4 + 2.0 * torch.special.ndtri(random.stratified("time"))
    tau = log_tau.exp()[:, None, None, None]
    rho = made.nearer(tau.flatten(), a).view_as(tau)
    f = [(z + s * eps) / (1 + s) - s / (1 + s) for s in (tau, rho)]
    square = (f[0] - f[1]).square().mean((1, 2, 3))
    wanted = ((square + 1e-6).sqrt() - 1e-3) / (tau - rho).flatten()
    torch.testing.assert_close(made.errors(z, Context(), random, a), wanted, rtol=1e-3, atol=1e-4)
    side = made.sides()[0]
    torch.testing.assert_close(
        side.loss(z, Context(), random, 10 * a + 9, {})[0]["consistency"], wanted.mean(), rtol=1e-3, atol=1e-4
    )


def test_a_stops_at_the_last():
    made, random = prior(every=10, last=2), Random(0, 0, torch.arange(5))
    z, loss = random.normal("z", SHAPE), prior(every=10, last=2).sides()[0].loss
    assert loss(z, Context(), random, 25, {}) == loss(z, Context(), random, 999, {})
    assert loss(z, Context(), random, 0, {}) != loss(z, Context(), random, 999, {})
    torch.testing.assert_close(
        made.held_out(z, Context(), random)["consistency"].mean(), loss(z, Context(), random, 25, {})[0]["consistency"]
    )


def test_no_gradient_flows_through_the_nearer_point():
    made, random = prior(), Random(0, 0, torch.arange(5))
    z, eps = random.normal("z", SHAPE), random.normal("noise", SHAPE)
    found = torch.autograd.grad(made.errors(z, Context(), random, 5).sum(), made.denoiser.backbone.weight)[0]
    tau = (-0.4 + 2.0 * torch.special.ndtri(random.stratified("time"))).exp()[:, None, None, None]
    rho, w = made.nearer(tau.flatten(), 5).view_as(tau), torch.ones((), requires_grad=True)
    f = [(z + s * eps) / (1 + s) - s / (1 + s) * (w if s is tau else 1) for s in (tau, rho)]
    errors = (((f[0] - f[1]).square().mean((1, 2, 3)) + 1e-6).sqrt() - 1e-3) / (tau - rho).flatten()
    torch.testing.assert_close(found, torch.autograd.grad(errors.sum(), w)[0], rtol=1e-3, atol=1e-3)


def test_dropout_is_the_same_in_both():
    made = prior(network=lambda channels, context: MLP(channels, context, sides=(2, 2), width=8, depth=1, dropout=0.5))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p))
    random, seen = Random(0, 0, torch.arange(5)), []
    made.denoiser.backbone.blocks[0].dropout.register_forward_hook(lambda _, inputs, output: seen.append(output == 0))
    made.train().errors(random.normal("z", SHAPE), Context(), random, 3)
    assert torch.equal(*seen) and seen[0].any()


@pytest.mark.parametrize("highest", [5.0, 1e9])
@pytest.mark.parametrize("kind", KINDS[1:], ids=IDS[1:])
def test_the_first_evaluation_is_where_training_goes_or_where_the_schedule_ends(kind, highest):
    """sqrt(1 + tau^2) alpha eps is what latents of variance 1 and their noise are together; at the schedule's end, t = 1."""
    made, random = prior(kind, highest=highest), Random(0, 0, torch.arange(4))
    schedule = made.denoiser.schedule
    t = schedule.time(torch.full((4,), -2 * math.log(5.0))) if highest == 5 else torch.ones(4)
    alpha, sigma = schedule.alpha_sigma(t)
    noise = (alpha**2 + sigma**2).sqrt()[:, None, None, None] * random.normal("prior", SHAPE)
    found = made.sample((4, *SHAPE), Context(), random)
    torch.testing.assert_close(found, made.denoiser(noise, t, Context()), rtol=1e-3, atol=1e-3)


def test_a_second_evaluation_by_hand():
    """On the straight path the end t = 1 is at no finite tau, and is not asked."""
    made, random = prior(steps=2, middle=0.8), Random(0, 0, torch.arange(4))
    first = made.ends((1 + 40.0**2) ** 0.5 * random.normal("prior", SHAPE), torch.full((4,), 40.0), Context())
    wanted = made.ends(first + 0.8 * random.normal("noise 1", SHAPE), torch.full((4,), 0.8), Context())
    torch.testing.assert_close(made.sample((4, *SHAPE), Context(), random), wanted)
