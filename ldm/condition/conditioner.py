"""Conditioners: modules that turn a batch into the context that samples are conditioned on.

Besides contexts a conditioner has a learnt embedding of "no condition". It is trained by dropping conditions at random (Ho
and Salimans 2022, algorithm 1), and classifier-free guidance needs it.

Sources:
    Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv 2207.12598
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ldm.constructed import Constructed
from ldm.types import Context, ContextShape


class Conditioner(Constructed, nn.Module, ABC):
    """Turns a batch into a context. A new one writes `forward` and `fit`.

    Attributes:
        shape: the widths of the context's parts, for which a backbone has to be built.
        needs: the keys of a batch that are read.
        drop: the probability that an example is trained without its condition.
    """

    shape: ContextShape
    needs: tuple[str, ...]
    drop: float = 0.0

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> Context:
        """The context of a batch, with the learnt "no condition" in its field `empty`."""

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
