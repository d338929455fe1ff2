"""What the rest of the house asks of a prior, whichever family it is of.

A prior is a generative model p(z | c) of the first stage's latents: whitened ones, (b, c, h, w) of unit variance per channel,
or the integer codes (b, h, w) of a vector quantiser. Stage, evaluation, records and sampling know this class alone. A
family writes `loss` and `sample`; the other methods have defaults, which a family with a second player, a beginning from data
or choices in how it samples replaces. What only some families can do is a class beside it: `Likelihood`, `Invertible`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.build import Config, build, check, described, is_node, merged
from ldm.constructed import Constructed
from ldm.cost import context_on_meta, flops
from ldm.nearest import nearest
from ldm.random import Random
from ldm.types import Codes, Context, ContextShape, Latent, Reads

Terms = dict[str, Tensor]
Part: TypeAlias = tuple[Tensor, Context, Random]
"""A micro-batch of an update: what is modelled (b, ...), what it is given, and its random numbers."""

GIVEN = ("latents", "context")
"""Arguments of every prior's constructor that the first stage and the condition say, and no config."""


@dataclass(frozen=True)
class Latents:
    """What a prior models.

    Fields:
        shape: (c, h, w) of one latent.
        codes: how many codes there are, where it models those: integers (h, w) from 0 to codes - 1; None for latents.
        pixels: whether they are images as they are, of 8 bits in [-1, 1], and not whitened.
    """

    shape: tuple[int, int, int]
    codes: int | None = None
    pixels: bool = False

    @property
    def kind(self) -> Reads:
        """Which of the three they are."""
        return "pixels" if self.pixels else "latents" if self.codes is None else "codes"

    @property
    def numbers(self) -> int:
        """How many numbers one example has: c h w, or h w codes."""
        channels, height, width = self.shape
        return height * width * (channels if self.codes is None else 1)

    def batch(self, count: int) -> tuple[int, ...]:
        """The shape of `count` examples: (count, c, h, w), or (count, h, w) of codes."""
        return (count, *(self.shape if self.codes is None else self.shape[1:]))


@dataclass(frozen=True)
class Side:
    """One side of a training game, which moves its own weights by its own loss. A GAN has two, most families one.

    Fields:
        name: as curves and messages call it.
        modules: whose parameters it moves; no other side's. The condition's move with the first side.
        loss: (z, c, random, update, shared) -> (terms whose sum it minimises, values that are only logged). `update` counts those
            that are done; no terms: it sits this update out. `shared` is a dict that lives for one batch, for what
            sides would compute twice, and for what `Prior.prepare` has found.
    """

    name: str
    modules: tuple[nn.Module, ...]
    loss: Callable[[Tensor, Context, Random, int, dict[str, Any]], tuple[Terms, Terms]]


class Prior(Constructed, nn.Module, ABC):
    """A generative model of z given a context. `random` holds the numbers of the batch (ldm.random); without it torch's own
    generator seeds them.

    Arguments:
        latents, context: what is modelled and what it is given; known when the first stage and the condition are.

    Attributes:
        reads: what it models, the same for every prior of a family or (`reading`) by its config.
        DRAWING: arguments of the constructor, and attributes, that say how samples are drawn and nothing of how the model is
            trained: a finished model takes others.
        SPATIAL: whether it can be given a map of the latent's size, as a condition on a part of each image is.
        TUNES: what it goes on from, in words, where it is trained from another prior's weights (`prior.checkpoint`) and not from
            random ones; "" elsewhere.
    """

    reads: Reads = "latents"
    DRAWING: ClassVar[tuple[str, ...]] = ()
    SPATIAL: ClassVar[bool] = False
    TUNES: ClassVar[str] = ""

    def __init__(self, latents: Latents, context: ContextShape):
        super().__init__()
        if context.spatial is not None and not self.SPATIAL:
            raise ValueError(
                f"{type(self).__name__} has no place for a condition on a part of each image (masked, low_resolution), which "
                "is a spatial map; take prior=diffusion, consistency, mean_flow, equilibrium, cnf or ot_flow, or "
                "condition=label, text or none"
            )
        self.latents, self.context = latents, context

    @property
    def factor(self) -> int:
        """Of which the sides of latents must be multiples."""
        return 1

    @classmethod
    def reading(cls, node: Config, gives: Reads, allowed: tuple[str, ...] | None = None) -> Reads:
        """What the prior of this node models of a first stage that gives such latents, known before it is built."""
        return cls.reads

    # What a family writes

    @abstractmethod
    def loss(self, z: Latent | Codes, c: Context, random: Random | None = None) -> Terms:
        """Named scalar terms; their sum is minimised. In a game, the first side's."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], c: Context, random: Random | None = None) -> Latent | Codes:
        """Examples of `shape` (see `Latents.batch`), the same for the same seed whatever the batch they are drawn in."""

    # How it is trained

    def sides(self) -> list[Side]:
        """Who plays; by default the whole prior on `loss`."""
        return [Side("prior", (self,), lambda z, c, random, update, shared: (self.loss(z, c, random), {}))]

    def beside(self) -> nn.Module | None:
        """What is trained with the prior, checkpointed and resumed, but is neither averaged nor part of the model that is
        kept: a critic, a replay buffer. It is kept where torch does not register it, as in a tuple."""
        return None

    def begin(self, batches: Iterable[tuple[Latent | Codes, Context]]) -> None:
        """Take from data what has to be there before update 0. `batches` are the first ones of training, each whole, the
        same on every rank; reading none costs nothing."""

    @property
    def prepares(self) -> bool:
        """Whether updates begin with `prepare`; the micro-batches of an update are then held until the last has come."""
        return False

    def prepare(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """What an update takes from the whole of its batch before its sides learn: of each micro-batch, what its `shared` has
        at first. Every rank calls it with its own micro-batches."""
        return [{} for _ in parts]

    def whole(self) -> str | None:
        """Why each rank has to keep all of its weights, in words; None where they can be sharded. Ranks that share weights have
        to ask its networks equally often, whatever their examples are, and cannot write a weight by themselves."""
        return None

    def conclude(self) -> Terms:
        """What an update does on the whole of its batch, once its sides have moved: gathered over micro-batches and, by a
        collective call, over ranks. Numbers of it to log."""
        return {}

    def held_out(self, z: Latent | Codes, c: Context, random: Random) -> dict[str, Float[Tensor, " b"]]:
        """name -> (b,) values of held-out examples, averaged over the set; NaN is left out."""
        if isinstance(self, Likelihood):
            return {"nll per dimension": -self.log_prob(z, c, random) / self.latents.numbers}
        return {name: value.expand(len(z)) for name, value in self.loss(z, c, random).items()}

    def networks(self) -> list[nn.Module]:
        """What is asked when a sample is drawn, rows of examples first: compiled where this is asked for, and counted."""
        return []

    def flops(self) -> int | None:
        """Floating-point operations of one example's forward pass in training: of one call of its network or, where a density is
        exact, of all that `log_prob` asks. None where it has no network, or they cannot be counted. ValueError where the
        network does not fit the latents, which shapes alone tell."""
        if not (self.networks() and isinstance(self, Likelihood) and self.kind == "exact"):
            return None
        kind = torch.float32 if self.latents.codes is None else torch.long
        z = torch.empty(self.latents.batch(1), dtype=kind, device="meta")
        try:
            return flops(_Density(self), z, context_on_meta(self.context, self.latents.shape))[0]
        except NotImplementedError:
            return None

    # How samples are drawn

    def drawn(self, node: Config | None = None) -> dict[str, Any]:
        """How samples are drawn, for records: each of DRAWING that is set, objects in a word (`described`).

        Arguments:
            node: the config that builds this prior; without, an object is named by its class alone.
        """
        values = {name: (node or {}).get(name, getattr(self, name)) for name in self.DRAWING}
        return {name: _word(value) for name, value in values.items() if value is not None}

    def redrawn(self, node: Config, words: Config, allowed: tuple[str, ...]) -> Config:
        """Let samples be drawn as `words` say from now on; the config that now describes this prior.

        Arguments:
            node: the config that builds this prior.
            words: by names of DRAWING: nodes or plain values in the place of the node's own, None for what is there without one;
                a mapping that is no node changes single arguments of it.
            allowed: packages that nodes may name (ldm.build).
        Raises:
            ValueError: a word is none of DRAWING.
            ConfigError: a value does not fit its place.
        """
        for name in words:
            if name not in self.DRAWING:
                ways = self.DRAWING or ("nothing that could be changed",)
                hint = nearest(name, ways, f"{type(self).__name__} draws its samples by")
                raise ValueError(f"prior.{name}= says nothing of how samples are drawn{hint}")
        new = {name: value for name, value in merged(node, words).items() if value is not None or name not in words}
        check(new, "prior", GIVEN, allowed)
        device = next((parameter.device for parameter in self.parameters()), None)
        for name in words:
            value = build(new.get(name), f"prior.{name}", allowed)
            setattr(self, name, value.to(device) if isinstance(value, nn.Module) and device is not None else value)
        return new

    def asks_null(self) -> bool:
        """Whether drawing a sample asks what the model gives without its condition, which training has to have dropped."""
        return False

    def check_negative(self) -> None:
        """ValueError where nothing would move away from a negative prompt."""
        raise ValueError(f"negative= is of guidance, and this model's prior {type(self).__name__} has none")

    def guided_by(self, other: Prior | None, same_schedule: bool = True) -> bool:
        """Move samples away from those of another prior of the same latents (autoguidance); whether they are.

        Raises:
            ValueError: another is given and this prior knows no guide, or the other way round.
        """
        if other is not None:
            raise ValueError(f"guide= is of a diffusion's guidance; this run's prior is {type(self).__name__}")
        return False


class _Density(nn.Module):
    """log p(z | c) of a prior as a module's forward pass."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def forward(self, z: Latent | Codes, c: Context) -> Float[Tensor, " b"]:
        return self.prior.log_prob(z, c)


def _word(value: Any) -> Any:
    if is_node(value):
        return described(value)
    if isinstance(value, str | int | float | bool):
        return value
    kind = value.func if isinstance(value, functools.partial) else type(value)
    return kind.__name__.lower()


class Likelihood(ABC):
    """The capability to give densities; what needs it asks `isinstance(prior, Likelihood)`.

    Attributes:
        kind: whether `log_prob` is exact, a lower bound, or an estimate.
    """

    kind: Literal["exact", "bound", "estimate"]

    @abstractmethod
    def log_prob(self, z: Latent | Codes, c: Context, random: Random | None = None) -> Float[Tensor, " b"]:
        """log p(z | c) in nats, (b,). `random` is what an estimate draws; without it, that of seed 0 and the places in
        the batch, so that the same call gives the same number."""


Watch: TypeAlias = Callable[[float, Latent], None]
"""Told of a sample on its way, in (t, z): the time, from 1 at noise down to 0, and what is expected of the latents by then."""


class Gradual:
    """The capability to show a sample while it forms; what needs it asks `isinstance(prior, Gradual)`.

    Attributes:
        watch: told of each step of a sample; None where nobody looks.
    """

    watch: Watch | None = None


class Invertible(ABC):
    """The capability to say of which noise a latent is made, and which latent noise makes."""

    @abstractmethod
    def to_noise(self, z: Latent, c: Context) -> Latent:
        """u (b, c, h, w), standard normal where z is distributed as the prior says."""

    @abstractmethod
    def from_noise(self, u: Latent, c: Context) -> Latent:
        """z with to_noise(z, c) = u, (b, c, h, w)."""
