"""Heads of autoregressive priors: the law of what stands at one position, by the numbers that a network gives for it.

    p(z | c) = prod_i p(z_i | z_1 ... z_(i-1), c),      p(z_i | ...) = head(network(z_1 ... z_(i-1), c))

A head says what the prior models, what the network is told of a position, and how many numbers it asks of it. What is drawn
may be bent away from the law that was learnt:

    temperature T          p^(1/T), normalised: below 1 what is rare becomes rarer
    guidance s             p_c (p_c / p_0)^(s - 1), with p_0 the law without a condition (Ho and Salimans 2022, section 3)
    top-k, top-p           only the k likeliest values, or the likeliest ones that together have the share p (Holtzman et al.
    2019)

Sources:
    Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv 2207.12598
    Holtzman et al., The Curious Case of Neural Text Degeneration (2019), arXiv 1904.09751
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ldm.constructed import Constructed
from ldm.prior.base import Latents
from ldm.prior.stepwise import Grid
from ldm.random import Random
from ldm.types import Codes, Latent, Reads


@dataclass(frozen=True)
class Bent:
    """How draws differ from the law that was learnt; by default, they do not.

    Fields:
        temperature: T; top_k: k; top_p: p; guidance: s.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0


class Head(Constructed, nn.Module, ABC):
    """The law of one position. A new one writes `embed`, `log_prob` and `draw`, and `loss` where it is not trained by
    likelihood.

    Arguments:
        latents: what is modelled; the prior gives it.

    Attributes:
        reads: what it can model; where a first stage gives none of them, the first is asked for.
        inputs: numbers of a position that the network is told.
        outputs: numbers of a position that it asks of the network.
        truncates: whether top-k and top-p mean something.
        kind: whether `log_prob` is exact, a bound or an estimate (`Likelihood`).
        objective: what `loss` is called in curves.
    """

    reads: ClassVar[tuple[Reads, ...]]
    truncates: ClassVar[bool] = True
    kind: Literal["exact", "bound", "estimate"] = "exact"
    objective: ClassVar[str] = "nll per dimension"
    inputs: int
    outputs: int

    def __init__(self, latents: Latents):
        super().__init__()
        if latents.kind not in self.reads:
            raise ValueError(
                f"{type(self).__name__} is a law of {' or '.join(self.reads)}, and the first stage gives {latents.kind}; take "
                "another prior/head=, or leave it to what fits"
            )
        self.latents = latents

    @classmethod
    def reading(cls, gives: Reads) -> Reads:
        """What is modelled of a first stage that gives such latents."""
        if gives in cls.reads:
            return gives
        return "latents" if "latents" in cls.reads else cls.reads[0]

    @abstractmethod
    def embed(self, z: Latent | Codes) -> Float[Tensor, "b i h w"]:
        """What the network is told of z (b, c, h, w), or codes (b, h, w), position by position, (b, inputs, h, w)."""

    @abstractmethod
    def log_prob(
        self, parameters: Float[Tensor, "b o h w"], z: Latent | Codes, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        """The logarithm of the probability, or density, of what stands at each position of z, (b, h, w), in nats.

        Arguments:
            parameters: of the laws, (b, outputs, h, w), in float32.
            random: of the examples; what an estimate draws.
        """

    def loss(
        self, parameters: Float[Tensor, "b o h w"], z: Latent | Codes, random: Random | None = None
    ) -> Float[Tensor, "b h w"]:
        """What training minimises, of the numbers at each position, (b, h, w); by default -log_prob."""
        return -self.log_prob(parameters, z, random)

    @abstractmethod
    def draw(
        self,
        parameters: Float[Tensor, "b o"],
        null: Float[Tensor, "b o"] | None,
        bent: Bent,
        random: Random,
        stream: str,
    ) -> Tensor:
        """What stands at one position: (b, c), or codes (b,).

        Arguments:
            parameters: of its law, (b, outputs), in float32.
            null: those without a condition; None where there is no guidance.
            stream: of random numbers, a name of the position.
        """


class StepwiseHead(ABC):
    """The capability of a head to give the laws of a position's numbers in closed form (`Stepwise` of priors)."""

    @abstractmethod
    def laws(self, parameters: Float[Tensor, " o"], grid: Grid | None) -> Generator[Tensor, int, Tensor]:
        """The probabilities (n,) of each number of a position, given those before it, whose places are sent back; in the end
        what stands there as `embed` takes it, (1, c, 1, 1), or codes (1, 1, 1).

        Arguments:
            parameters: of the position's law, (outputs,).
            grid: of latents.
        """


def bent_logits(logits: Float[Tensor, "b k"], null: Float[Tensor, "b k"] | None, bent: Bent) -> Float[Tensor, "b k"]:
    """Logits (b, k) of values after guidance away from those without a condition, temperature, top-k and top-p, in this order."""
    if null is not None:
        logits, null = logits.log_softmax(-1), null.log_softmax(-1)
        logits = null + bent.guidance * (logits - null)
    logits = logits / bent.temperature
    if bent.top_k is not None and bent.top_k < logits.shape[-1]:
        least = logits.topk(bent.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if bent.top_p is not None:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, (before >= bent.top_p) & (before > 0))
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def chosen(logits: Float[Tensor, "b k"], u: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The value, (b,), whose interval of the cumulative softmax of the logits (b, k) holds u (b,) in [0, 1)."""
    share = logits.softmax(-1).cumsum(-1)
    last = share.shape[-1] - 1
    return torch.searchsorted(share, u[:, None] * share[:, -1:], right=True)[:, 0].clamp(max=last)
