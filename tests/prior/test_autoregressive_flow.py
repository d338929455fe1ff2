"""maf, naf and iaf as priors: their densities are densities."""

import pytest
import torch

from ldm.bijection.transform.affine import Affine
from ldm.bijection.transform.sigmoidal import Sigmoidal
from ldm.cost import FlopCounter
from ldm.prior.autoregressive_flow import AutoregressiveFlow
from ldm.prior.base import Latents
from ldm.random import Random
from ldm.types import Context, ContextShape

KINDS = {"maf": (Affine(), False), "naf": (Sigmoidal(5), False), "iaf": (Affine(), True)}


def prior(kind: str, amount: float = 0.1, shape=(2, 1, 1)) -> AutoregressiveFlow:
    torch.manual_seed(0)
    transform, quick = KINDS[kind]
    made = AutoregressiveFlow(Latents(shape), ContextShape(3), transform, 2, 16, quick_samples=quick)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(amount * torch.randn_like(p))
    return made


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_density_integrates_to_one(kind):
    axis = torch.linspace(-12, 12, 321)
    z = torch.cartesian_prod(axis, axis)[:, :, None, None]
    log_p = prior(kind, 0.05).log_prob(z, Context(torch.ones(1, 1, 3)))
    assert abs(log_p.double().exp().sum() * (axis[1] - axis[0]) ** 2 - 1) < 0.01


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_noise_comes_back_and_numbers_are_asked_in_the_cheap_direction_once(kind):
    made, c = prior(kind, shape=(2, 2, 2)), Context(torch.randn(4, 1, 3))
    random, calls = Random(0, 0, torch.arange(4)), []
    for network in made.networks():
        network.register_forward_hook(lambda *_: calls.append(0))
    z = made.sample((4, 2, 2, 2), c, random)
    assert len(calls) == (2 if kind == "iaf" else 16)
    torch.testing.assert_close(made.to_noise(z, c), random.normal("prior", (2, 2, 2)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(made.from_noise(made.to_noise(z, c), c), z, rtol=1e-4, atol=1e-3)


def test_what_a_density_costs():
    """Each masked network's matrices once, and those of the context's token; so, too, where numbers come one after the other."""
    once = 2 * (2 * 16 + 16 * 16 + 16 * 4) + 2 * 3 * (16 + 16 + 4)
    assert prior("maf").flops() == prior("iaf").flops() == 2 * once


@pytest.mark.parametrize("kind", ["maf", "iaf"])
@torch.no_grad()
def test_numbers_one_after_the_other_take_the_products_of_one_pass(kind):
    """But those of the last number of the order, whom no other hears."""
    made, z, c = prior(kind, shape=(2, 2, 2)), torch.randn(3, 2, 2, 2), Context(torch.randn(3, 1, 3))
    quick, slow = (made.from_noise, made.to_noise) if kind == "iaf" else (made.to_noise, made.from_noise)
    with FlopCounter() as whole:
        quick(z, c)
    with FlopCounter() as steps:
        slow(z, c)
    assert whole.total - steps.total == 2 * 3 * 2 * 16
