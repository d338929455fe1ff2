"""The target, the explicit energy and gradient descent by hand, and the modes of a ring found."""

import functools
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.backbone.mlp import MLP
from ldm.backbone.unet import UNet
from ldm.prior.base import Latents
from ldm.prior.equilibrium import Dot, Equilibrium, Form, Implicit
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.prior.test_gan import ring, shares


class Linear(nn.Module):
    """F(z) = A z + the mean of the context's tokens, for latents of one pixel; told no noise level but 0."""

    def __init__(self, channels: int, context: ContextShape):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, 0.5], [-0.3, 2.0]]))

    def forward(self, z: Tensor, log_snr: Tensor, c: Context) -> Tensor:
        assert log_snr.shape == (len(z),) and not log_snr.any()
        y = torch.einsum("ij, bjhw -> bihw", self.a, z)
        return y if c.tokens is None else y + c.tokens.mean((1, 2))[:, None, None, None]


def linear(form: Form | None = None, **options: Any) -> Equilibrium:
    return Equilibrium(Latents((2, 1, 1)), ContextShape(), Linear, form or Implicit(), **options)


def rows(count: int, step: int = 0) -> Random:
    return Random(0, step, torch.arange(count))


@pytest.mark.parametrize(("g", "wanted"), [(0.0, 4.0), (0.8, 4.0), (0.9, 2.0), (0.95, 1.0), (1.0, 0.0)])
def test_the_size_of_the_field(g, wanted):
    assert linear().weight(torch.tensor([g])).item() == pytest.approx(wanted, abs=1e-5)
    assert linear(hold=0.0, size=1.0).weight(torch.tensor([g])).item() == pytest.approx(1 - g, abs=1e-6)


def test_the_target_by_hand():
    """(n - z) w(g) at g z + (1 - g) n, of each example at a level of its own."""
    prior, z, random = linear(), torch.randn(8, 2, 1, 1), rows(8)
    g, n = random.stratified("level"), random.normal("noise", (2, 1, 1))
    wanted = []
    for i in range(8):
        x = g[i] * z[i, :, 0, 0] + (1 - g[i]) * n[i, :, 0, 0]
        w = 4.0 * min(1.0, (1 - g[i].item()) / 0.2)
        wanted.append((prior.backbone.a @ x - w * (n[i] - z[i])[:, 0, 0]).square().mean())
    torch.testing.assert_close(prior.errors(z, Context(), random), torch.stack(wanted))
    torch.testing.assert_close(prior.loss(z, Context(), random), {"equilibrium": torch.stack(wanted).mean()})


def test_an_explicit_energy_and_its_field():
    """x . A x has the gradient (A + A^T) x; both are learnt through."""
    prior, x = linear(Dot()), torch.randn(5, 2, 1, 1)
    a, points = prior.backbone.a, x[:, :, 0, 0]
    torch.testing.assert_close(prior.energy(x, Context()), torch.einsum("bi, ij, bj -> b", points, a, points))
    torch.testing.assert_close(prior.field(x, Context())[:, :, 0, 0], points @ (a + a.T))
    got = torch.autograd.grad(prior.field(x, Context()).square().sum(), a)[0]
    wanted = torch.autograd.grad((points @ (a + a.T)).square().sum(), a)[0]
    torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        assert not prior.field(x, Context()).requires_grad


def test_without_an_energy_it_says_so():
    with pytest.raises(ValueError, match=r"learns a field alone; train with prior\.form"):
        linear().energy(torch.zeros(1, 2, 1, 1), Context())


def test_an_explicit_energy_learns_through_attention():
    torch.manual_seed(0)
    network = functools.partial(UNet, width=8, multipliers=(1,), blocks=1, attention=(True,), heads=1)
    prior = Equilibrium(Latents((2, 4, 4)), ContextShape(), network, Dot())
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.1 * torch.randn_like(p))
    prior.loss(torch.randn(3, 2, 4, 4), Context(), rows(3))["equilibrium"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_descent_by_hand(momentum):
    prior, random = linear(steps=3, step=0.1, momentum=momentum), rows(4)
    x, a, before = random.normal("prior", (2, 1, 1))[:, :, 0, 0], prior.backbone.a.detach(), 0.0
    for _ in range(3):
        before = (x - momentum * 0.1 * before) @ a.T
        x = x - 0.1 * before
    torch.testing.assert_close(prior.sample((4, 2, 1, 1), Context(), random)[:, :, 0, 0], x)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_guidance_by_hand(guidance):
    """The field is A x + t, t the mean of the tokens, 3 with and -1 without a condition: guided A x + 4 guidance - 1."""
    empty = Context(torch.full((1, 1, 2), -1.0))
    prior = Equilibrium(Latents((2, 1, 1)), ContextShape(tokens=2), Linear, Implicit(), guidance=guidance)
    assert prior.asks_null() == (guidance != 1)
    x = torch.randn(4, 2, 1, 1)
    got = prior.guided(x, Context(torch.full((4, 1, 2), 3.0), empty=empty))
    wanted = torch.einsum("ij, bjhw -> bihw", prior.backbone.a, x) + 4 * guidance - 1
    torch.testing.assert_close(got, wanted)


@pytest.mark.usefixtures("unchecked")
def test_all_modes_of_a_ring_are_found():
    """A Gaussian of the ring's moments has 0.24 of its points near modes, 0.03 near each; LDM_SLOW=1 trains longer."""
    updates, rate = (3000 if os.environ.get("LDM_SLOW") else 400), 3e-3
    network = functools.partial(MLP, width=64, depth=2)
    prior = Equilibrium(Latents((2, 1, 1)), ContextShape(), network, Implicit())
    optimizer = torch.optim.Adam(prior.parameters())
    for update in range(updates):
        random = rows(256, step=update)
        prior.loss(ring(random), Context(), random)["equilibrium"].backward()
        optimizer.param_groups[0]["lr"] = rate * (1 - update / updates)
        optimizer.step()
        optimizer.zero_grad()
    found = shares(prior.sample((1000, 2, 1, 1), Context(), rows(1000)))
    assert found.min() > 0.05, found
    assert found.sum() > 0.6, found
