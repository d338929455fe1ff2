"""Every recipe of conf/diffusion, with the exact network in the place of the trained one, samples the mixture."""

import pytest
import torch
import yaml

from ldm.build import build
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.diffusion.exact import ExactNetwork
from tests.pieces import CONF

RECIPES = sorted((CONF / "diffusion").glob("*.yaml"))


def parts_of(file):
    """word -> what the recipe builds for it: its choices, then what it changes in them."""
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    words = {key: word for choice in recipe.pop("defaults") if choice != "_self_" for key, word in choice.items()}
    nodes = {key: yaml.safe_load((CONF / f"diffusion/{key}/{word}.yaml").read_text()) for key, word in words.items()}
    return {key: build(node | recipe.get(key, {})) for key, node in nodes.items()}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_samples_the_data(file):
    """Mean and covariance of 4000 samples after 40 steps, to 5 standard errors (0.016 sd) and the solver's error."""
    parts, n = parts_of(file), 4000
    network = ExactNetwork(parts["schedule"], parts["parameterization"])
    prior = Diffusion(Latents((2, 1, 1)), ContextShape(), lambda channels, context: network, **parts, steps=40)
    found = prior.sample((n, 2, 1, 1), Context(), Random(0, 0, torch.arange(n))).flatten(1).double()
    wanted = network.denoiser.draw(200_000, torch.Generator().manual_seed(0)).flatten(1)
    assert torch.allclose(found.mean(0), wanted.mean(0), atol=0.1)
    assert torch.allclose(found.T.cov(), wanted.T.cov(), atol=0.1)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_has_the_least_loss_at_the_exact_network(file):
    parts, n = parts_of(file), 500
    random = Random(0, 0, torch.arange(n))
    losses = []
    for factor in (0.8, 1.0, 1.2):
        network = ExactNetwork(parts["schedule"], parts["parameterization"], factor)
        prior = Diffusion(Latents((2, 1, 1)), ContextShape(), lambda channels, context, n=network: n, **parts)
        z = network.denoiser.draw(n, torch.Generator().manual_seed(0)).float()
        losses.append(prior.loss(z, Context(), random)["diffusion"])
    assert losses[1] < losses[0] and losses[1] < losses[2]
