"""Conditioners: from a batch to what a sample is conditioned on.

A conditioner holds a learnt 'no condition' beside its conditions; the prior trains it by dropping conditions (arXiv
2207.12598, algorithm 1) and guidance asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ldm.constructed import Constructed
from ldm.types import Context, ContextShape


class Conditioner(Constructed, nn.Module, ABC):
    """
    Attributes:
        shape: what a backbone has to be able to read.
        needs: the keys of a batch that are read.
    """

    shape: ContextShape
    needs: tuple[str, ...]

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> Context:
        """The context of a batch, its learnt null in `.empty`."""

    @abstractmethod
    def fit(self, captions: Iterable[str]) -> None:
        """Learn from the training captions what has to be there before training; most have nothing to learn."""


def captions_of(batch: Mapping[str, Any]) -> list[str]:
    """The batch's captions, without spaces about them; KeyError where it has none."""
    captions = batch.get("caption")
    if captions is None:
        raise KeyError(
            f"this condition reads batch['caption'] and the batch has only {', '.join(batch) or 'nothing'}: "
            "take data with captions, or condition=label or none"
        )
    return [caption.strip() for caption in captions]


def rounded_up(count: int, most: int, step: int = 16) -> int:
    """The next multiple of `step`, at most `most`: few lengths of token rows, so that little is compiled anew."""
    return min(-(-count // step) * step, most)
