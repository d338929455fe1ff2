"""Langevin dynamics, the buffer of chains and the contrastive loss by hand, and the modes of a ring found."""

import functools
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.nn.fixup import Critic
from ldm.prior.base import Latents
from ldm.prior.ebm import EBM, Langevin, Replay
from ldm.random import Random
from ldm.run.signals import Diverged
from ldm.types import Context, ContextShape
from tests.prior.test_gan import ring, shares
from tests.stage.test_sides import stage
from tests.stage.tiny import At, fit, result
from tests.stage.two_ranks import on_two_ranks


def rows(count: int, seed: int = 0, step: int = 0) -> Random:
    return Random(seed, step, torch.arange(count))


# Langevin dynamics


@pytest.mark.usefixtures("unchecked")
def test_samples_of_a_quadratic_energy_have_its_covariance():
    """x^T A x / 2: the steps are linear, and their stationary covariance is (A (1 - h^2 A / 4))^-1."""
    a, h = torch.tensor([[2.0, 0.6], [0.6, 1.0]]), 0.8

    def energy(x: Tensor) -> Tensor:
        return 0.5 * torch.einsum("bi, ij, bj -> b", x[:, :, 0, 0], a, x[:, :, 0, 0])

    x = Langevin(40, h, clip=10.0)(energy, torch.full((20_000, 2, 1, 1), 3.0), rows(20_000))[:, :, 0, 0]
    wanted = torch.linalg.inv(a @ (torch.eye(2) - 0.25 * h**2 * a))
    torch.testing.assert_close(torch.cov(x.T), wanted, rtol=0.05, atol=0.02)
    torch.testing.assert_close(x.mean(0), torch.zeros(2), rtol=0, atol=0.03)


def steep(x: Tensor) -> Tensor:
    """100 x^2 / 2."""
    return 50 * x.square().sum((1, 2, 3))


def test_a_step_by_hand():
    """Of 100 x^2 / 2 at x = 2: h^2 / 2 of the gradient, kept within the clip; for each step other noise."""
    random, x = rows(3), torch.full((3, 1, 1, 1), 2.0)
    first, second = (random.normal(f"langevin {k}", (1, 1, 1)) for k in range(2))
    torch.testing.assert_close(Langevin(1, 0.1, clip=9.0)(steep, x, random), 2 - 0.5 * 0.01 * 200 + 0.1 * first)
    clipped = Langevin(1, 0.1, clip=0.25)
    torch.testing.assert_close(clipped(steep, x, random, steps=2), 2 - 2 * 0.25 + 0.1 * first + 0.1 * second)


# The buffer


def test_what_goes_in():
    """Of two samples for one place the first, and none that is not finite."""
    replay = Replay(4, (1, 1, 1), 2)
    samples = torch.tensor([5.0, 6.0, math.nan, 7.0, 8.0]).view(5, 1, 1, 1)
    contexts, age = torch.arange(10.0).view(5, 2), torch.tensor([20, 40, 60, 80, 100])
    replay.put(torch.tensor([2, 2, 0, 0, 1]), samples, contexts, age)
    assert replay.samples.flatten().tolist() == [7, 8, 5, 0] and replay.age.tolist() == [80, 100, 20, 0]
    assert replay.contexts.tolist() == [[6, 7], [8, 9], [0, 1], [0, 0]]


def test_a_chain_goes_on_under_a_context_like_its_own():
    """Four kinds of contexts, which have moved a little since: all but the few that meet none of their kind find it."""
    replay, kinds = Replay(256, (1, 1, 1), 3), 10 * torch.randn(4, 3)
    held = torch.arange(256) % 4
    replay.put(torch.arange(256), torch.zeros(256, 1, 1, 1), kinds[held] + 0.1 * torch.randn(256, 3), held + 1)
    wanted = torch.arange(400) % 4
    places = replay.places(kinds[wanted], rows(400))
    assert torch.equal(held[places], wanted) and len(places.unique()) > 50


def test_without_contexts_places_are_drawn_evenly():
    places = Replay(8, (1, 1, 1), None).places(torch.zeros(8000, 0), rows(8000))
    counts = torch.bincount(places, minlength=8)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


class Square(nn.Module):
    """f(z, c) = theta |z|^2 / 2."""

    def __init__(self, shape: tuple[int, int, int], context: ContextShape):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.5))

    def forward(self, z: Tensor, c: Context) -> Tensor:
        assert z.dtype == (z @ z.transpose(2, 3)).dtype == torch.float32
        return 0.5 * self.theta * z.square().flatten(1).sum(1)


def square(**options: Any) -> EBM:
    chosen = {"langevin": Langevin(2, 0.1, clip=5.0), "scale": 3.0, "places": 16, "restart": 0.25} | options
    return EBM(Latents((2, 1, 1)), ContextShape(), Square, **chosen)


def halves(z: Tensor) -> Tensor:
    return 0.5 * z.square().flatten(1).sum(1)


def test_the_energy_is_in_nats():
    """|z|^2 / 2 + s f."""
    z = torch.randn(5, 2, 1, 1)
    torch.testing.assert_close(square().energy(z, Context()), (1 + 3.0 * 0.5) * halves(z))


@pytest.mark.parametrize("half", [False, True])
def test_contrastive_divergence_by_hand(half):
    """Chains of an empty buffer start at noise, take two steps and give no gradient of their own; data have noise on them."""
    prior, random, z = square(squares=0.2, data_noise=0.3), rows(6), torch.randn(6, 2, 1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = prior.loss(z, Context(), random)
    x = random.normal("start", (2, 1, 1))
    for k in range(2):
        x = x - 0.005 * (1 + 3.0 * 0.5) * x + 0.1 * random.normal(f"langevin {k}", (2, 1, 1))
    z = z + 0.3 * random.normal("data noise", (2, 1, 1))
    real, fake = 0.5 * halves(z), 0.5 * halves(x)
    wanted = {"contrastive": real.mean() - fake.mean(), "squares": 0.2 * (real.square() + fake.square()).mean()}
    torch.testing.assert_close(terms, wanted)
    (gradient,) = torch.autograd.grad(terms["contrastive"], prior.network.theta)
    torch.testing.assert_close(gradient, (halves(z) - halves(x)).mean())


def test_chains_go_on_and_a_share_starts_anew():
    prior, z = square(restart=0.25), torch.randn(8, 2, 1, 1)
    for update in range(40):
        prior.loss(z, Context(), rows(8, step=update))
        assert set(prior.conclude()) == {"chain age"}
    assert (prior.replay.age > 0).all() and (prior.replay.age % 2 == 0).all()
    before, random = prior.replay.samples.clone(), rows(8, step=99)
    places = prior.replay.places(torch.zeros(8, 0), random)
    anew = random.uniform("restart") < 0.25
    assert 0 < anew.sum() < 8
    age = torch.where(anew, 0, prior.replay.age[places]) + 2
    x = torch.where(anew[:, None, None, None], random.normal("start", (2, 1, 1)), before[places])
    for k in range(2):
        x = x - 0.005 * 2.5 * x + 0.1 * random.normal(f"langevin {k}", (2, 1, 1))
    prior.loss(z, Context(), random)
    told = prior.conclude()
    assert told["chain age"].item() == pytest.approx(age.float().mean().item())
    for place in places.unique():
        first = (places == place).nonzero()[0, 0]
        torch.testing.assert_close(prior.replay.samples[place], x[first])
        assert prior.replay.age[place] == age[first]
    assert prior.conclude() == {}


def test_outside_of_training_nothing_goes_in():
    prior = square().eval()
    prior.loss(torch.randn(4, 2, 1, 1), Context(), rows(4))
    assert prior.conclude() == {} and (prior.replay.age == 0).all()


def test_samples_are_chains_from_noise():
    prior, random = square(steps=3), rows(4)
    x = random.normal("prior", (2, 1, 1))
    for k in range(3):
        x = x - 0.005 * 2.5 * x + 0.1 * random.normal(f"langevin {k}", (2, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(prior.sample((4, 2, 1, 1), Context(), random), x)


@pytest.mark.parametrize(("limit", "refused"), [(0.1, True), (1e6, False)])
def test_an_update_with_too_large_a_gap_is_refused(limit, refused):
    prior = square(limit=limit)
    terms = prior.loss(torch.full((4, 2, 1, 1), 9.0), Context(), rows(4))
    (gradient,) = torch.autograd.grad(sum(terms.values()), prior.network.theta)
    assert gradient.isnan() if refused else gradient.isfinite()


# Through the one training code


class Tiny(EBM):
    """With labels, and so few places that several rows of an update meet in one."""

    limit_ = 100.0

    def __init__(self, latents: Latents, context: ContextShape):
        network = functools.partial(Critic, width=4, blocks=1, smooth=True)
        langevin = Langevin(2, 0.1)
        super().__init__(latents, context, network, langevin, 3.0, places=6, restart=0.3, limit=self.limit_)
        with torch.no_grad():
            for p in self.parameters():
                p.add_(0.1 * torch.randn_like(p))


class Lost(Tiny):
    limit_ = 1e-9


OPTIONS = {"sgd": True, "lr": 0.05, "steps": 4, "validate_every": 0}


def test_micro_batches_make_the_update_of_the_batch():
    whole, parts = (result(fit(stage(Tiny, accumulate=count, **OPTIONS))) for count in (1, 2))
    assert whole["weights"]["beside.age"].max() > 2, "chains go on"
    torch.testing.assert_close(parts["weights"], whole["weights"], atol=2e-6, rtol=1e-5)


def test_it_goes_on_to_the_bit_with_its_buffer(tmp_path):
    options = {"steps": 6, "validate_every": 0, "save_every": 2}
    through = result(fit(stage(Tiny, **options), tmp_path / "through"))
    fit(stage(Tiny, **options), tmp_path / "parts", At(3, lambda stage: setattr(stage.stop, "raised", True)))
    again = result(fit(stage(Tiny, **options), tmp_path / "parts"))
    for key in ("weights", "average", "optimizers"):
        torch.testing.assert_close(again[key], through[key], rtol=0, atol=0)


def test_a_gap_that_stays_too_large_ends_the_training():
    before = stage(Lost, patience=3, steps=9, log_every=1, validate_every=0)
    weights = {name: p.detach().clone() for name, p in before.model.prior.named_parameters()}
    with pytest.raises(Diverged, match="3 updates in a row"):
        fit(before)
    assert before.updates == 3
    torch.testing.assert_close(dict(before.model.prior.named_parameters()), weights, rtol=0, atol=0)


def test_two_ranks_have_one_buffer(tmp_path):
    ranks = on_two_ranks(tmp_path, lambda: stage(Tiny, **OPTIONS))
    torch.testing.assert_close(*ranks, atol=0, rtol=0)
    torch.testing.assert_close(ranks[0], result(fit(stage(Tiny, **OPTIONS)))["weights"], atol=2e-6, rtol=1e-5)


# A ring of eight Gaussians


class Points(nn.Module):
    """A smooth perceptron of points."""

    def __init__(self, shape: tuple[int, int, int], context: ContextShape):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, z: Tensor, c: Context) -> Tensor:
        return self.layers(z.flatten(1))[:, 0]


@pytest.mark.usefixtures("unchecked")
def test_all_modes_of_a_ring_are_found():
    """A Gaussian of the ring's moments has 0.24 of its points near modes, 0.03 near each; LDM_SLOW=1 trains longer."""
    updates, rate = (2000 if os.environ.get("LDM_SLOW") else 200), 3e-3
    latents, langevin = Latents((2, 1, 1)), Langevin(20, 0.1)
    prior = EBM(latents, ContextShape(), Points, langevin, 10.0, places=1024, restart=0.1, steps=200)
    optimizer = torch.optim.Adam(prior.parameters())
    for update in range(updates):
        random = rows(128, step=update)
        sum(prior.loss(ring(random), Context(), random).values()).backward()
        prior.conclude()
        optimizer.param_groups[0]["lr"] = rate * (1 - update / updates)
        optimizer.step()
        optimizer.zero_grad()
    found = shares(prior.sample((1000, 2, 1, 1), Context(), rows(1000, seed=1)))
    assert found.min() > (0.07 if updates > 1000 else 0.03), found
    assert found.sum() > (0.8 if updates > 1000 else 0.45), found
