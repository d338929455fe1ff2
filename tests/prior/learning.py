"""Priors that learn the ring (tests.prior.ring), and how far from it they come."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.prior.base import Likelihood, Prior
from ldm.random import Random
from ldm.types import Context
from tests.prior import ring

KEPT = 0.99  # of the average of weights at each update, as a stage has one


def trained(
    prior: Prior,
    updates: int,
    rate: float,
    rows: int = 256,
    betas: tuple[float, float] = (0.9, 0.999),
    batch: Callable[[int], tuple[Tensor, Context]] = lambda rows: (ring.draw(rows), Context()),
) -> Prior:
    """With the averages of its weights, after as many updates of all of its sides by Adam, at a rate of one cycle.

    Arguments:
        rows: of a batch.
        batch: draws it.
    """
    prior.begin([batch(512)])
    sides = [(side, [p for module in side.modules for p in module.parameters()]) for side in prior.sides()]
    optimizers = [torch.optim.Adam(own, rate, betas, fused=True) for _, own in sides]
    rates = [torch.optim.lr_scheduler.OneCycleLR(each, rate, updates, cycle_momentum=False) for each in optimizers]
    own = list(prior.parameters())
    averages = [p.detach().clone() for p in own]
    for update in range(updates):
        (z, c), random, shared = batch(rows), Random(0, update, torch.arange(rows)), {}
        for side, weights in sides:
            terms, _ = side.loss(z, c, random, update, shared)
            for p, gradient in zip(weights, torch.autograd.grad(sum(terms.values()), weights), strict=True):
                p.grad = gradient
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
        prior.conclude()
        for optimizer, schedule in zip(optimizers, rates, strict=True):
            optimizer.step()
            schedule.step()
        torch._foreach_lerp_(averages, own, 1 - min(KEPT, update / (update + 10)))
    with torch.no_grad():
        for p, average in zip(own, averages, strict=True):
            p.copy_(average)
    return prior.eval()


@torch.no_grad()
def gap(prior: Likelihood, count: int = 10_000) -> float:
    """How many nats more than the entropy the ring takes under a prior, over the same draws."""
    z = ring.draw(count, torch.Generator().manual_seed(5))
    return (ring.log_density(z) - prior.log_prob(z, Context())).mean().item()
