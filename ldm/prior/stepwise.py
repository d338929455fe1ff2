"""The law of one number after the other, which is what a coder asks of a prior.

    P(k_1 ... k_d | c) = prod_i P(k_i | k_1 ... k_(i-1), c)

A code and a level of a pixel have such laws where the prior is autoregressive or its numbers are independent. A latent is a real
number and has them on a `Grid`: cell k is what lies nearer to the value k step than to any other, its probability the mass of the
density there, and the outermost cells reach to infinity, so that every latent has a cell and the masses sum to one,

    P(k) = F(step (k + 1/2)) - F(step (k - 1/2)).

Of mixtures of Gaussians the law of a number given those before it is a mixture of the same components again, whose weights are
multiplied by what each component gave those before, so the laws of all numbers multiply to the mass of the whole cell exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldm.types import Context, Latent

Laws: TypeAlias = Generator[Tensor, int, None]
"""Of each number in turn the probabilities (n,) of the n things that may stand there; what does is sent back, as its place among
them. Numbers are in row-major order of positions, the channels of a position one after the other."""


@dataclass(frozen=True)
class Grid:
    """The values step k of a latent's numbers, k from -bound to bound.

    Fields:
        step: their distance, where latents have deviation 1.
        bound: the greatest k.
    """

    step: float
    bound: int

    @classmethod
    def around(cls, z: Latent, step: float) -> Grid:
        """The smallest one on which latents z have their places, of three values at least."""
        return cls(step, max(int((z.double() / step).round().abs().max()), 1))

    def places(self, z: Latent) -> Int[Tensor, "b z lh lw"]:
        """The places of the nearest values, 0 to 2 bound."""
        return (z.double() / self.step).round().long().clamp(-self.bound, self.bound) + self.bound

    def values(self, places: Tensor) -> Float[Tensor, "*s"]:
        """What stands at places, in double precision."""
        return (places - self.bound).double() * self.step

    @property
    def edges(self) -> Float[Tensor, " n"]:
        """The bounds of the cells, from -infinity to infinity, one more than there are cells."""
        inner = (torch.arange(-self.bound, self.bound).double() + 0.5) * self.step
        ends = torch.tensor([torch.inf]).double()
        return torch.cat([-ends, inner, ends])


class Stepwise(ABC):
    """The capability to say which law each number has given those before it; exact, and of the model as it was trained."""

    @abstractmethod
    def laws(self, c: Context, grid: Grid | None = None) -> Laws:
        """The laws of one example's numbers.

        Arguments:
            c: of one example.
            grid: of latents; codes and pixels have their values.
        """

    def lawless(self) -> str | None:
        """Why this one cannot say its laws, though its family can, in words; None where it can."""
        return None


def mixture_laws(
    log_weights: Float[Tensor, " k"], means: Float[Tensor, "k d"], deviations: Float[Tensor, "k d"], grid: Grid
) -> Generator[Tensor, int, Tensor]:
    """The laws of d numbers of a mixture of Gaussians with diagonal covariances, on a grid; their values (d,) in the end."""
    edges, places = grid.edges.to(means), []
    for mean, deviation in zip(means.unbind(1), deviations.unbind(1), strict=True):
        masses = log_masses(edges, mean[:, None], deviation[:, None])
        place = yield (log_weights[:, None] + masses).logsumexp(0).exp()
        log_weights = (log_weights + masses[:, place]).log_softmax(0)
        places.append(place)
    return grid.values(torch.tensor(places)).to(means)


def log_masses(edges: Float[Tensor, " n"], mean: Tensor, deviation: Tensor) -> Tensor:
    """The logarithms of what normal laws have between neighbouring edges, (..., n - 1), without loss of digits in the tails: on
    the right of the mean, the cell is mirrored to its left."""
    low, high = ((each - mean) / deviation for each in (edges[:-1], edges[1:]))
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return above + torch.log1p(-(below - above).exp())
