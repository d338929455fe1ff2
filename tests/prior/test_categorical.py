"""Codes, each position by itself: sums to one over every picture of codes there is, and counts what it begins from."""

import itertools

import torch

from ldm.prior.base import Latents
from ldm.prior.categorical import Categorical
from ldm.random import Random
from ldm.types import Context, ContextShape

LATENTS = Latents((5, 2, 2), codes=3)


def made() -> Categorical:
    torch.manual_seed(0)
    prior = Categorical(LATENTS, ContextShape(tokens=2))
    with torch.no_grad():
        prior.logits.normal_()
    return prior


def test_probabilities_are_by_hand_and_sum_to_one():
    prior = made()
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    c = Context(tokens=torch.tensor([[[1.0, -1.0]]]).expand(len(every), 1, 2))
    log_p = prior.log_prob(every, c)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0))
    logits = prior.logits + prior.by_context(torch.tensor([1.0, -1.0]))[:, None, None]
    share = logits.softmax(0)
    z = every[50]
    wanted = sum(share[z[i, j], i, j].log() for i in range(2) for j in range(2))
    torch.testing.assert_close(log_p[50], wanted)
    assert LATENTS.numbers == 4 and LATENTS.batch(7) == (7, 2, 2)


def test_samples_have_the_shares_and_temperature_sharpens_them():
    n, prior = 30_000, made()
    c = Context(tokens=torch.zeros(n, 1, 2))
    for temperature in (1.0, 0.5):
        prior.temperature = temperature
        z = prior.sample((n, 2, 2), c, Random(0, 0, torch.arange(n)))
        share = torch.stack([(z == k).float().mean(0) for k in range(3)])
        torch.testing.assert_close(share, (prior.logits / temperature).softmax(0), rtol=0, atol=0.015)


def test_it_begins_as_the_counts_of_the_data():
    """Of 12,000 examples 10,000 are counted, in whole batches; one is added to each count."""
    z = torch.zeros(12_000, 2, 2, dtype=torch.long)
    z[::4, 0, 0] = 2
    prior = made()
    prior.begin((part, Context()) for part in z.split(100))
    torch.testing.assert_close(prior.logits[:, 0, 0].exp(), torch.tensor([7501.0, 1.0, 2501.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(prior.logits[:, 1, 1].exp(), torch.tensor([10001.0, 1.0, 1.0]), rtol=1e-4, atol=0)
