"""Conditions that are of an image: what is given of it is a map beside the latent.

The map, (b, k, h, w) of the latent's size, is concatenated to what a backbone reads (Rombach et al. 2021, section 4.4). So a
prior that learns p(z | c) learns to fill in or to enlarge, by the loss that it has anyway, and draws by its own sampler in as
many evaluations as any sample takes.

In training a law says what is given of each image (`given`). With probability `drop` nothing is, and then the map is one that
no image has; so the model draws whole images as well, and classifier-free guidance has an answer to move away from. A condition
on something else, as a label, is composed by `of`: it is dropped by itself, so that every mixture of known and unknown is
learnt, while guidance moves away from the answer that knows nothing of both.

What is given is made of images and, of some, of the first stage's latents of what is left of them. So cached latents cannot take
the place of images, which are encoded in each update and not once.

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ldm.condition.conditioner import Conditioner
from ldm.condition.none import Unconditional
from ldm.random import Random
from ldm.types import Context, ContextShape, Image, Probability


@runtime_checkable
class FirstStage(Protocol):
    """What such a condition knows of the autoencoder: shapes (c, h, w), the factor between sides, and the latents of images."""

    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    factor: int

    def encode(self, x: Image) -> Any:
        """The posterior of whitened latents, whose `mean` is read."""


class Spatial(Conditioner):
    """A condition on a part of each image, and on what another condition reads. A new one writes `given` and `map`.

    Arguments:
        first: the autoencoder whose latents are conditioned; the model gives it.
        nothing: the map (k, h, w) of the latent's size that says that nothing is given.
        of: a condition on something else, as a label, that is composed with this one; None is without.
        drop: the probability that an example is trained with nothing given of its image; `of` is dropped by itself.
    """

    nothing: Float[Tensor, "k h w"]

    def __init__(self, first: FirstStage, nothing: Float[Tensor, "k h w"], of: Conditioner | None, drop: Probability):
        super().__init__()
        self.of = of or Unconditional()
        if self.of.shape.spatial is not None:
            raise ValueError(
                f"condition.of: {type(self.of).__name__} is of an image as {type(self).__name__} is, and a latent has place for "
                "one map; take label, text or none"
            )
        # In a tuple the first stage is no submodule, and so is neither trained nor saved a second time.
        self._first, self.drop = (first,), drop
        self.shape = ContextShape(self.of.shape.tokens, len(nothing))
        self.needs = (*self.of.needs, "image")
        self.register_buffer("nothing", nothing, persistent=False)

    @abstractmethod
    def given(self, batch: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
        """The batch with what is given of each `image`, drawn by the law of training; as it is where it has no images."""

    @abstractmethod
    def map(self, batch: Mapping[str, Any]) -> Float[Tensor, "b k h w"] | None:
        """What is given, as a map of the latent's size; None where nothing is."""

    @property
    def first(self) -> FirstStage:
        """The first stage."""
        return self._first[0]

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """The context of what is given; where the batch does not say what, as one of images alone, of nothing."""
        c, found, nothing = self.of(batch), self.map(batch), self.nothing[None]
        if found is None:
            found = nothing.expand(_count(batch, c), -1, -1, -1)
        return replace(c, spatial=found, empty=replace(c.empty or Context(), spatial=nothing))

    def dropped(self, c: Context, random: Random) -> Context:
        told = c.drop(self.of.drop, random.uniform("drop"), ("tokens", "mask"))
        return told.drop(self.drop, random.uniform("drop image"), ("spatial",))

    def parts(self) -> Iterator[Conditioner]:
        yield self
        yield from self.of.parts()

    def fit(self, captions: Iterable[str]) -> None:
        self.of.fit(captions)


def _count(batch: Mapping[str, Any], c: Context) -> int:
    """How many examples there are; KeyError where nothing tells."""
    found = c.tokens if c.tokens is not None else batch.get("index", batch.get("image"))
    if found is None:
        raise KeyError(
            f"this condition reads batch['image'], or batch['index'] where nothing is given of images, and the batch has only "
            f"{', '.join(batch) or 'nothing'}"
        )
    return len(found)
