"""Couplings: which noise is paired with which latent in flow matching.

Independent pairs cross, so that the expected velocity bends. Paired at the least total cost,

    min over permutations s of sum_i |z_i - eps_s(i)|^2 / d + penalty (1 - cos(c_i, c_s(i))),

paths in a batch do not cross, and tend to the optimal transport plan as the batch grows (Tong et al. 2023, section 3.2; Pooladian
et al. 2023). Without the second term the noise of a condition is no longer standard normal: latents of one class take the noise
that lies near them, and a sample of that class that starts from all noise is another than in training. The penalty
(Cheng and Schwing 2025) first gives each noise the condition of the latent of its own row, which is independent of it, and
makes a change of condition cost: where it is great, noise is exchanged between latents of the same condition alone, whatever
the noise of each condition is as a set stays as it was drawn, and conditional samples are unbiased. Where all conditions of a
batch differ, as captions do, near ones are exchanged if the penalty is small, and none where it is great.

What makes it fail: small batches, whose plan is far from the transport of the whole; and plans of parts of a batch. So the
latents of all ranks and of all micro-batches are coupled at once, in the order of their rows in the batch: the plan is the
same however a batch is shared out. It takes O(n^3) operations on the host: a second for 2,048 latents of 256 numbers.

Sources:
    Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport (2023),
        arXiv 2302.00482
    Pooladian et al., Multisample Flow Matching: Straightening Flows with Minibatch Couplings (2023), arXiv 2304.14772
    Cheng and Schwing, The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional Flow-Based
        Generation (2025), arXiv 2503.10636
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from ldm.constructed import Constructed
from ldm.nn.attention import masked_mean
from ldm.prior.base import Part
from ldm.random import Random
from ldm.ranks import of_all_ranks, sizes_of_ranks
from ldm.types import Context, Latent


class Coupling(Constructed, ABC):
    """A way to pair latents with noise. A new one writes `together` and `__call__`.

    Attributes:
        together: whether the noise of a latent depends on the others of its batch, all of which then have to be there.
    """

    together: ClassVar[bool]

    @abstractmethod
    def __call__(self, parts: Sequence[Part]) -> list[Tensor]:
        """The noise of each latent of each micro-batch of an update, (b, c, h, w). Every rank calls it with its own."""


class Independent(Coupling):
    """Each latent has the noise of its own row."""

    together = False

    def __call__(self, parts: Sequence[Part]) -> list[Tensor]:
        return [random.normal("noise", tuple(z.shape[1:])) for z, _, random in parts]


class OptimalTransport(Coupling):
    """The pairs of least total cost among the latents and the noise of the batch of an update, exactly.

    Arguments:
        penalty: of 1 - cosine between the condition of a latent and that of the row whose noise it takes, beside the mean squared
            difference of a number; 0 ignores conditions, and conditional samples are then biased.
    """

    together = True

    def __init__(self, penalty: NonNegativeFloat = 100.0):
        self.penalty = penalty

    @torch.no_grad()
    def __call__(self, parts: Sequence[Part]) -> list[Tensor]:
        random = parts[0][2]
        own = torch.cat([each.rows for _, _, each in parts])
        z = torch.cat([z.float() for z, _, _ in parts])
        conditions = [_conditions(c, len(z)) for z, c, _ in parts]
        sizes = sizes_of_ranks(z)
        rows, order = of_all_ranks(own.to(z.device), sizes).sort()
        noise = Random(random.seed, random.step, rows, random.total).normal("noise", tuple(z.shape[1:]))
        of_all = None if conditions[0] is None else of_all_ranks(torch.cat(conditions), sizes)[order]
        taken = assignment(self.cost(of_all_ranks(z, sizes)[order], noise, of_all)).to(z.device)
        noise = noise[taken[torch.searchsorted(rows, own.to(z.device))]]
        return list(noise.split([len(z) for z, _, _ in parts]))

    def cost(self, z: Latent, noise: Latent, conditions: Float[Tensor, "b k"] | None = None) -> Float[Tensor, "b b"]:
        """Of latent i with noise j, (b, b), in float64 on the CPU, so that all ranks agree on it."""
        z, noise = (x.flatten(1).double().cpu() for x in (z, noise))
        cost = (z.square().sum(1)[:, None] + noise.square().sum(1) - 2 * z @ noise.T) / z.shape[1]
        if conditions is None or not self.penalty:
            return cost
        unit = conditions.double().cpu()
        return cost + self.penalty / 2 * torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()


def assignment(cost: Float[Tensor, "b b"]) -> Tensor:
    """The permutation s of the least sum of cost[i, s(i)], (b,)."""
    from scipy.optimize import linear_sum_assignment  # here, because it takes a while to import

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def _conditions(c: Context, rows: int) -> Float[Tensor, "b k"] | None:
    """The mean token and the spatial map of each example, each of length 1, (b, k); None where there is no condition."""
    parts = [] if c.tokens is None else [masked_mean(c.tokens.float(), c.mask)]
    parts += [] if c.spatial is None else [c.spatial.float().flatten(1)]
    return torch.cat([F.normalize(part, dim=1) for part in parts], 1).expand(rows, -1) if parts else None
