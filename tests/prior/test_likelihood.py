"""Whoever gives densities is asked as the interface says."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import ldm.prior
from ldm.prior.base import Likelihood
from ldm.prior.normal import Normal
from ldm.random import Random
from ldm.types import Context, ContextShape


def implementations() -> list[type[Likelihood]]:
    """Every class of ldm.prior that is a Likelihood."""
    for module in pkgutil.walk_packages(ldm.prior.__path__, "ldm.prior."):
        importlib.import_module(module.name)
    found, new = set(), {Likelihood}
    while new:
        new = {child for parent in new for child in parent.__subclasses__() if child.__module__.startswith("ldm.")}
        found |= new
    return sorted(found, key=lambda each: each.__qualname__)


def parameters(kind: type) -> list[tuple]:
    signature = inspect.signature(inspect.unwrap(kind.log_prob))
    return [(each.name, each.kind, each.default, each.annotation) for each in signature.parameters.values()]


def test_there_are_some():
    assert {each.__name__ for each in implementations()} >= {"Diffusion", "Normal"}


@pytest.mark.parametrize("kind", implementations(), ids=lambda kind: kind.__name__)
def test_the_signature_is_the_interfaces(kind):
    assert parameters(kind) == parameters(Likelihood)
    assert kind.log_prob is not Likelihood.log_prob


def test_the_normal_density_by_hand_whatever_the_random_numbers():
    z = torch.tensor([1.0, -2.0, 0.5, 0.0]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    prior = Normal((1, 2, 2), ContextShape())
    wanted = torch.full((2,), -(1 + 4 + 0.25) / 2 - 2 * math.log(2 * math.pi))
    for random in (None, Random(1, 2, torch.arange(2))):
        torch.testing.assert_close(prior.log_prob(z, Context(), random), wanted)
    torch.testing.assert_close(prior.loss(z, Context())["nll"], -wanted.mean())
    random = Random(3, 0, torch.arange(2))
    assert torch.equal(prior.sample((2, 1, 2, 2), Context(), random), random.normal("prior", (1, 2, 2)))
