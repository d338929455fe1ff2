"""The game's losses and penalties by hand, whose weights each of them moves, and the modes of a ring found."""

import functools
import itertools
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.nn.fixup import Critic, Generator
from ldm.prior.base import Latents, Prior
from ldm.prior.gan import GAN, Hinge, NonSaturating, Objective, Relativistic, squared_gradient
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.stage.test_sides import stage
from tests.stage.tiny import fit, result
from tests.stage.two_ranks import on_two_ranks


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("objective", "critic", "generator"),
    [
        (Relativistic(), softplus(-(0.7 - -0.2)), softplus(-(-0.2 - 0.7))),
        (NonSaturating(), softplus(-0.7) + softplus(-0.2), softplus(0.2)),
        (Hinge(), (1 - 0.7) + (1 - 0.2), 0.2),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Objective) else None,
)
def test_objectives_by_hand(objective, critic, generator):
    """At r = 0.7 and f = -0.2, in a batch of pairs that are not alike."""
    real, fake = torch.tensor([0.7, 3.0]), torch.tensor([-0.2, -4.0])
    assert objective.critic(real, fake)[0].item() == pytest.approx(critic, rel=1e-5)
    assert objective.generator(real, fake)[0].item() == pytest.approx(generator, rel=1e-5)
    assert (objective.critic(real, fake)[1] < objective.critic(fake, real)[1]).item()


class Line(nn.Module):
    """D(z, c) = w . z + the mean of c's tokens; what it sees is noted."""

    def __init__(self, shape: tuple[int, int, int], context: ContextShape):
        super().__init__()
        self.w = nn.Parameter(torch.arange(1.0, math.prod(shape) + 1).view(shape))
        self.dtypes: list[Any] = []

    def forward(self, z: Tensor, c: Context) -> Tensor:
        self.dtypes.append(((z @ z.transpose(2, 3)).dtype, None if c.tokens is None else c.tokens.requires_grad))
        values = (z * self.w).flatten(1).sum(1)
        return values if c.tokens is None else values + c.tokens.flatten(1).mean(1)


class Shift(nn.Module):
    """G(n, c) = n + b, of as many numbers as the latent has."""

    def __init__(self, noise: int, shape: tuple[int, int, int], context: ContextShape):
        super().__init__()
        self.shape = shape
        self.b = nn.Parameter(torch.full(shape, 0.25))

    def forward(self, noise: Tensor, c: Context) -> Tensor:
        return noise.view(-1, *self.shape) + self.b


def linear(r1: float = 0.0, r2: float = 0.0, shape: tuple[int, int, int] = (2, 1, 1), context: Any = None) -> GAN:
    latents = Latents(shape)
    return GAN(latents, context or ContextShape(), Shift, Line, Relativistic(), latents.numbers, r1, r2)


def played(prior: Prior, z: Tensor, c: Context, random: Random) -> dict[str, tuple[dict, dict]]:
    shared: dict[str, Any] = {}
    return {side.name: side.loss(z, c, random, 0, shared) for side in prior.sides()}


def test_the_squared_gradient_of_a_parabola_and_its_gradient():
    """v = a |x|^2 / 2 has |dv/dx|^2 = a^2 |x|^2, whose derivative in a is 2 a |x|^2."""
    a, x = torch.tensor(3.0, requires_grad=True), torch.randn(4, 2, 1, 1, requires_grad=True)
    squares = x.detach().square().flatten(1).sum(1)
    got = squared_gradient(a * x.square().flatten(1).sum(1) / 2, x)
    torch.testing.assert_close(got, 9 * squares)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), a)[0], 6 * squares.sum())


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 2, 2)], ids=str)
def test_penalties_of_a_linear_critic_grow_with_the_dimensions(shape):
    """(gamma d / 2) |w|^2, at data by r1 and at samples by r2, whatever these are."""
    prior, rows = linear(0.1, 0.3, shape), 5
    numbers = math.prod(shape)
    squares = sum(k**2 for k in range(1, numbers + 1))
    terms, _ = played(prior, torch.randn(rows, *shape), Context(), Random(0, 0, torch.arange(rows)))["critic"]
    assert terms["r1"].item() == pytest.approx(0.5 * 0.1 * numbers * squares)
    assert terms["r2"].item() == pytest.approx(0.5 * 0.3 * numbers * squares)
    (gradient,) = torch.autograd.grad(terms["r2"], prior.critic.w)
    torch.testing.assert_close(gradient, 0.3 * numbers * prior.critic.w.detach())


def test_penalties_are_taken_where_they_say():
    """D = |z|^2 / 2 has |grad D|^2 = |z|^2, at data and at samples."""
    prior = linear(1.0, 1.0)
    prior._critic = (Parabola(),)
    z, random = torch.randn(6, 2, 1, 1), Random(0, 0, torch.arange(6))
    terms, _ = played(prior, z, Context(), random)["critic"]
    made = random.normal("noise", (2,)) + 0.25
    assert terms["r1"].item() == pytest.approx(z.square().flatten(1).sum(1).mean().item(), rel=1e-5)
    assert terms["r2"].item() == pytest.approx(made.square().sum(1).mean().item(), rel=1e-5)


class Parabola(nn.Module):
    def forward(self, z: Tensor, c: Context) -> Tensor:
        return 0.5 * z.square().flatten(1).sum(1)


def test_both_sides_by_hand():
    """Pairs of one place in the batch, the samples of one update for both sides, each side's gradient."""
    prior, random = linear(), Random(3, 1, torch.arange(4))
    z = torch.randn(4, 2, 1, 1)
    both = played(prior, z, Context(), random)
    w = torch.tensor([1.0, 2.0])
    real, fake = z[:, :, 0, 0] @ w, (random.normal("noise", (2,)) + 0.25) @ w
    (terms, values), (own, _) = both["critic"], both["generator"]
    assert list(terms) == ["critic"], "no weight, no penalty"
    torch.testing.assert_close(terms["critic"], torch.log1p((fake - real).exp()).mean())
    torch.testing.assert_close(own["generator"], torch.log1p((real - fake).exp()).mean())
    torch.testing.assert_close(values, {"real": real.mean(), "fake": fake.mean()})
    (b,) = torch.autograd.grad(own["generator"], prior.generator.b)
    torch.testing.assert_close(b.flatten(), -(real - fake).sigmoid().mean() * w)
    torch.testing.assert_close(prior.loss(z, Context(), random), own)


def test_held_out_is_how_far_data_are_above_samples():
    prior, random = linear(), Random(3, 1, torch.arange(4))
    z, w = torch.randn(4, 2, 1, 1), torch.tensor([1.0, 2.0])
    wanted = (z[:, :, 0, 0] - random.normal("noise", (2,)) - 0.25) @ w
    torch.testing.assert_close(prior.held_out(z, Context(), random), {"margin": wanted})


def test_a_spectral_norm_is_estimated_once_an_update():
    latents, shape = Latents((2, 4, 4)), ContextShape()
    parts = functools.partial(Generator, width=4, blocks=1), functools.partial(Critic, width=4, blocks=1, spectral=True)
    prior = GAN(latents, shape, *parts, Hinge(), r1=0.0, r2=0.0)
    before = {name: value.clone() for name, value in prior.critic.state_dict().items()}
    z, random = torch.randn(2, 2, 4, 4), Random(0, 0, torch.arange(2))
    prior.train()
    played(prior, z, Context(), random)
    prior.held_out(z, Context(), random)
    torch.testing.assert_close(dict(prior.critic.state_dict()), before, rtol=0, atol=0)
    prior.conclude()
    after = prior.critic.state_dict()
    moved = {name.rpartition(".")[2] for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved <= {"_u", "_v"} and "_u" in moved


def test_the_critic_is_in_float32_and_teaches_the_condition_nothing():
    prior = linear(1.0, 1.0, context=ContextShape(tokens=3))
    tokens = torch.randn(4, 1, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        both = played(prior, torch.randn(4, 2, 1, 1), Context(tokens), Random(0, 0, torch.arange(4)))
    assert set(prior.critic.dtypes) == {(torch.float32, False)}
    for terms, _ in both.values():
        assert torch.autograd.grad(sum(terms.values()), tokens, allow_unused=True) == (None,)


# Through the one training code


class Tiny(GAN):
    """With no block at the identity, and with labels."""

    def __init__(self, latents: Latents, context: ContextShape):
        parts = functools.partial(Generator, width=4, blocks=1), functools.partial(Critic, width=4, blocks=1)
        super().__init__(latents, context, *parts, Relativistic(), noise=3, r1=0.01, r2=0.01)
        with torch.no_grad():
            for p in (*self.parameters(), *self.critic.parameters()):
                p.add_(0.1 * torch.randn_like(p))


OPTIONS = {"sgd": True, "lr": 0.05, "steps": 4, "validate_every": 0}


def test_micro_batches_and_ranks_make_the_update_of_the_batch(tmp_path):
    whole, parts = (result(fit(stage(Tiny, accumulate=count, **OPTIONS)))["weights"] for count in (1, 2))
    assert any(name.startswith("beside") for name in whole)
    torch.testing.assert_close(parts, whole, atol=2e-6, rtol=1e-5)
    ranks = on_two_ranks(tmp_path, lambda: stage(Tiny, **OPTIONS), "ddp_find_unused_parameters_true")
    torch.testing.assert_close(*ranks, atol=0, rtol=0)
    torch.testing.assert_close(ranks[0], whole, atol=2e-6, rtol=1e-5)


# A ring of eight Gaussians

CENTRES = math.sqrt(2) * torch.stack(
    [torch.arange(8).mul(math.pi / 4).cos(), torch.arange(8).mul(math.pi / 4).sin()], 1
)


def ring(random: Random) -> Tensor:
    """Points of the ring as latents (b, 2, 1, 1); each mode has deviation 0.1."""
    mode = (8 * random.uniform("mode")).long()
    return (CENTRES[mode] + 0.1 * random.normal("data", (2,)))[:, :, None, None]


def shares(z: Tensor) -> Tensor:
    """Which share of points (b, 2, 1, 1) is within four deviations of each mode, (8,)."""
    distance, mode = torch.cdist(z.flatten(1), CENTRES).min(1)
    return torch.bincount(mode[distance < 0.4], minlength=8) / len(z)


def trained(prior: Prior, updates: int, rate: float, rows: int = 128) -> Prior:
    """By Adam without momentum, both sides at once, under a falling rate."""
    sides = [(side, [p for module in side.modules for p in module.parameters()]) for side in prior.sides()]
    optimizers = [torch.optim.Adam(own, betas=(0.0, 0.99)) for _, own in sides]
    for update in range(updates):
        random, shared = Random(0, update, torch.arange(rows)), {}
        z = ring(random)
        for side, own in sides:
            terms, _ = side.loss(z, Context(), random, update, shared)
            for p, gradient in zip(own, torch.autograd.grad(sum(terms.values()), own), strict=True):
                p.grad = gradient
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * (1 - update / updates)
            optimizer.step()
    return prior


@pytest.mark.parametrize(
    ("shape", "noise", "wanted"), [((2, 1, 1), None, 4), ((4, 8, 8), None, 64), ((2, 1, 1), 7, 7)], ids=str
)
def test_noise_is_of_few_numbers_where_latents_are(shape, noise, wanted):
    """Samples of two numbers that are made from 64 miss modes (experiments/ring)."""
    networks = (functools.partial(each, width=8) for each in (Generator, Critic))
    prior = GAN(Latents(shape), ContextShape(), *networks, Relativistic(), noise)
    assert prior.noise == prior.generator.from_noise.in_features == wanted
    assert prior.sample((3, *shape), Context(), Random(0, 0, torch.arange(3))).shape == (3, *shape)


class Perceptron(nn.Module):
    """Points to points or numbers, by three hidden layers."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        widths = [inputs, 64, 64, 64]
        layers = [nn.Sequential(nn.Linear(*pair), nn.LeakyReLU(0.2)) for pair in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*layers, nn.Linear(64, outputs))

    def forward(self, x: Tensor, c: Context) -> Tensor:
        made = self.layers(x.flatten(1))
        return made[:, 0] if made.shape[1] == 1 else made[:, :, None, None]


def points() -> tuple[Any, Any]:
    return lambda noise, shape, context: Perceptron(noise, 2), lambda shape, context: Perceptron(2, 1)


def maps() -> tuple[Any, Any]:
    return tuple(functools.partial(each, width=32, blocks=3, group=64) for each in (Generator, Critic))


LONG = bool(os.environ.get("LDM_SLOW"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("networks", [points, *([maps] if LONG else [])])
def test_all_modes_of_a_ring_are_found(networks):
    """A Gaussian of the ring's moments has 0.24 of its points near modes, 0.03 near each; LDM_SLOW=1 trains until almost all
    are, and the networks of images, too."""
    prior = GAN(Latents((2, 1, 1)), ContextShape(), *networks(), Relativistic(), noise=4, r1=0.02, r2=0.02)
    trained(prior, 1500 if LONG else 300, 5e-3 if networks is maps else 2e-3)
    with torch.no_grad():
        found = shares(prior.sample((2000, 2, 1, 1), Context(), Random(1, 0, torch.arange(2000))))
    assert found.min() > (0.08 if LONG else 0.03), found
    assert found.sum() > (0.85 if LONG else 0.45), found
