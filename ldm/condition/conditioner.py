"""Conditioners: modules that turn a batch into the context that samples are conditioned on.

Besides contexts a conditioner has a learnt embedding of "no condition". It is trained by dropping conditions at random (Ho
and Salimans 2022, algorithm 1), and classifier-free guidance needs it.

Sources:
    Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv 2207.12598
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

from ldm.constructed import Constructed
from ldm.random import Random
from ldm.types import Context, ContextShape

Kind = TypeVar("Kind", bound="Conditioner")


class Conditioner(Constructed, nn.Module, ABC):
    """Turns a batch into a context. A new one writes `forward` and `fit`.

    Attributes:
        shape: the widths of the context's parts, for which a backbone has to be built.
        needs: the keys of a batch that are read; with "image" among them (ldm.condition.spatial) a stage reads images and no
            cached latents.
        drop: the probability that an example is trained without its condition.
    """

    shape: ContextShape
    needs: tuple[str, ...]
    drop: float = 0.0

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> Context:
        """The context of a batch, with the learnt "no condition" in its field `empty`."""

    def given(self, batch: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
        """The batch with what is given of each image, of a condition on a part of it; as it is elsewhere."""
        return batch

    def dropped(self, c: Context, random: Random) -> Context:
        """A context as training sees it: "no condition" for some examples, by chance."""
        return c.drop(self.drop, random.uniform("drop"))

    def parts(self) -> Iterator[Conditioner]:
        """The conditions that it is made of, itself among them."""
        yield self

    def find(self, kind: type[Kind]) -> Kind | None:
        """The condition of this kind that it is, or is made of; None where there is none."""
        return next((each for each in self.parts() if isinstance(each, kind)), None)

    @abstractmethod
    def fit(self, captions: Iterable[str]) -> None:
        """Prepare the conditioner with all training captions before training begins, as by learning a tokenizer."""

    def unread(self, caption: str) -> int:
        """How many tokens at the end of a caption are not read, because it is too long."""
        return 0


def captions_of(batch: Mapping[str, Any]) -> list[str]:
    """The captions of a batch, without leading and trailing spaces; KeyError where it has none."""
    captions = batch.get("caption")
    if captions is None:
        raise KeyError(
            f"this condition reads batch['caption'] and the batch has only {', '.join(batch) or 'nothing'}: "
            "take data with captions, or condition=label or none"
        )
    return [caption.strip() for caption in captions]


def rounded_up(count: int, most: int, step: int = 16) -> int:
    """`count` rounded up to a multiple of `step`, and at most `most`. Token sequences so have few different lengths, and
    compiled networks are seldom compiled again."""
    return min(-(-count // step) * step, most)
