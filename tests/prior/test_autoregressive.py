"""Autoregressive priors: a law that is known is learnt, caches change nothing, and the head that fits a first stage is taken."""

import functools
import itertools
import math

import pytest
import torch

from ldm.model import LatentModel
from ldm.prior.autoregressive import Autoregressive
from ldm.prior.base import Latents
from ldm.prior.head.categorical import Categorical
from ldm.prior.head.gaussian_mixture import GaussianMixture
from ldm.prior.head.logistic_mixture import LogisticMixture
from ldm.prior.network.pixelcnn import PixelCNN
from ldm.prior.network.transformer import Transformer
from ldm.random import Random
from ldm.resolve import ConfigError
from ldm.types import Context, ContextShape
from tests.runs import tiny

NETWORKS = {
    "pixelcnn": functools.partial(PixelCNN, width=16, depth=2, reach=1),
    "transformer": functools.partial(Transformer, width=32, depth=2, heads=2),
}
K, SIDE, RIGHT = 3, 3, 0.85


def weather(n: int, label: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, 3, 3) that with probability 0.85 are the one above (label 0) or to the left (label 1), or what there is of the
    two at the border, and else one of the two others; and log p of each, (n,)."""
    generator, shares = torch.Generator().manual_seed(seed), torch.tensor([RIGHT, (1 - RIGHT) / 2, (1 - RIGHT) / 2])
    z, log_p = torch.zeros(n, SIDE, SIDE, dtype=torch.long), torch.full((n,), -math.log(K))
    z[:, 0, 0] = torch.randint(K, (n,), generator=generator)
    for i, j in itertools.product(range(SIDE), repeat=2):
        if i or j:
            off = torch.multinomial(shares, n, True, generator=generator)
            z[:, i, j] = (copied(z, i, j, label) + off) % K
            log_p += shares[off].log()
    return z, log_p


def copied(z: torch.Tensor, i: int, j: int, label: torch.Tensor) -> torch.Tensor:
    above, left = z[:, max(i - 1, 0), j], z[:, i, max(j - 1, 0)]
    return above if j == 0 else left if i == 0 else torch.where(label == 0, above, left)


def told(label: torch.Tensor) -> Context:
    return Context(torch.eye(2)[label][:, None])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_law_of_codes_is_learnt_to_its_entropy(name):
    prior = Autoregressive(Latents((2, SIDE, SIDE), codes=K), ContextShape(tokens=2), NETWORKS[name])
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    steps = 150
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min((step + 1) / 20, 1) * (1 - step / steps)
        label = torch.randint(2, (128,))
        z, _ = weather(128, label, step)
        optimizer.zero_grad()
        prior.loss(z, told(label))["nll per dimension"].backward()
        optimizer.step()
    label = torch.arange(4000) % 2
    z, log_p = weather(4000, label, steps)
    with torch.no_grad():
        excess = (log_p - prior.log_prob(z, told(label))).mean()
    entropy = -(RIGHT * math.log(RIGHT) + (1 - RIGHT) * math.log((1 - RIGHT) / 2))
    assert 0 < excess < 0.02 * (math.log(K) + 8 * entropy)
    z = prior.sample((4000, SIDE, SIDE), told(label), Random(0, 0, torch.arange(4000)))
    held = [(z[:, i, j] == copied(z, i, j, label)).float().mean() for i, j in ((0, 1), (1, 0), (1, 2), (2, 1), (2, 2))]
    torch.testing.assert_close(torch.stack(held), torch.full((5,), RIGHT), rtol=0, atol=0.03)


def recomputed(prior: Autoregressive, shape: tuple[int, ...], c: Context, random: Random) -> torch.Tensor:
    """A sample without memory: for each position a whole pass over what is there so far."""
    bent, z = prior._bent(), torch.zeros(shape, dtype=torch.long if prior.reads == "codes" else torch.float32)
    for i in range(shape[-2] * shape[-1]):
        place = (..., i // shape[-1], i % shape[-1])
        parameters, null = (prior.network(prior.head.embed(z), each)[place] for each in (c, c.null()))
        z[place] = prior.head.draw(parameters, null if bent.guidance != 1 else None, bent, random, f"position {i}")
    return z


HEADS = {
    "codes": (Categorical, Latents((2, 3, 4), codes=7)),
    "256-way": (Categorical, Latents((2, 3, 4), pixels=True)),
    "logistic": (LogisticMixture, Latents((2, 3, 4), pixels=True)),
    "gaussian": (GaussianMixture, Latents((2, 3, 4))),
}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_samples_with_caches_are_those_without(name, head, guidance):
    kind, latents = HEADS[head]
    prior = Autoregressive(latents, ContextShape(tokens=2), NETWORKS[name], kind, guidance=guidance).eval()
    c = Context(torch.randn(3, 1, 2), empty=Context(torch.zeros(1, 1, 2)))
    shape, random = latents.batch(3), Random(0, 0, torch.arange(3))
    z = prior.sample(shape, c, random)
    torch.testing.assert_close(z, recomputed(prior, shape, c, random), rtol=1e-4, atol=1e-5)
    assert prior.asks_null() == (guidance != 1)


@pytest.mark.parametrize("head", HEADS)
def test_training_is_by_likelihood(head):
    kind, latents = HEADS[head]
    prior = Autoregressive(latents, ContextShape(), NETWORKS["transformer"], kind)
    z = prior.sample(latents.batch(3), Context())
    wanted = -prior.log_prob(z, Context()) / (12 if head == "codes" else 24)
    torch.testing.assert_close(prior.held_out(z, Context(), None), {"nll per dimension": wanted})
    torch.testing.assert_close(prior.loss(z, Context()), {"nll per dimension": wanted.mean()})


def test_guidance_of_nothing_is_the_model_without_a_condition():
    kind, latents = HEADS["codes"]
    prior = Autoregressive(latents, ContextShape(tokens=2), NETWORKS["transformer"], kind, guidance=0.0)
    c, random = Context(torch.randn(3, 1, 2), empty=Context(torch.zeros(1, 1, 2))), Random(0, 0, torch.arange(3))
    free = prior.sample(latents.batch(3), c, random)
    prior.guidance = 1.0
    assert torch.equal(prior.sample(latents.batch(3), c.null(), random), free)


@pytest.mark.parametrize(
    ("words", "head", "reads"),
    [
        (["autoencoder=vq_f4"], Categorical, "codes"),
        (["autoencoder=kl_f4_small"], GaussianMixture, "latents"),
        (["autoencoder=identity"], LogisticMixture, "pixels"),
        (["autoencoder=identity", "prior/head=categorical"], Categorical, "pixels"),
        (["autoencoder=identity", "prior/head=gaussian_mixture"], GaussianMixture, "latents"),
        (["autoencoder=vq_f4", "prior/head=gaussian_mixture"], GaussianMixture, "latents"),
    ],
)
@pytest.mark.parametrize("prior", NETWORKS)
def test_the_head_that_fits_is_taken(prior, words, head, reads, tmp_path):
    config = tiny(tmp_path, f"prior={prior}", *words, "condition=none")
    config["autoencoder"].pop("checkpoint", None)
    found = LatentModel.build(config).prior
    assert type(found.head) is head and found.reads == found.latents.kind == reads


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prior/head=categorical"], "models codes: codes need a vector quantiser .* try autoencoder=vq_f4"),
        (
            ["prior/head=logistic_mixture"],
            "models pixels here, and this autoencoder gives latents; take autoencoder=ident",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_refused(words, said, tmp_path):
    config = tiny(tmp_path, "prior=pixelcnn", "autoencoder=kl_f4_small", *words, "condition=none")
    config["autoencoder"].pop("checkpoint", None)
    with pytest.raises(ConfigError, match=said):
        LatentModel.build(config)


def test_words_without_effect_are_refused():
    prior = Autoregressive(Latents((2, 2, 2)), ContextShape(), NETWORKS["pixelcnn"])
    prior.top_k = 3
    with pytest.raises(
        ValueError, match="choose among values, and GaussianMixture is a density; take prior.temperature="
    ):
        prior.sample((2, 2, 2, 2), Context())
    with pytest.raises(ValueError, match="guidance above 1 moves away from; here guidance=1"):
        prior.check_negative()
    prior.guidance = 2.0
    prior.check_negative()
