"""What an evaluation asks of a metric: look at batches, then give measurements.

The same held-out examples go to every metric: the real image, its reconstruction by the first stage, and an image generated
for its caption or label. So all numbers of a run are of the same images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ldm.metric.measurement import Measurement
from ldm.types import Image


@dataclass(frozen=True)
class Examples:
    """A batch on one device; images (b, c, h, w) in [-1, 1].

    real, reconstruction: of the same held-out examples; generated: for their captions or labels, None where there is no
    prior; index: their rows in the held-out set.
    """

    real: Image
    reconstruction: Image
    generated: Image | None
    captions: Sequence[str]
    index: Int[Tensor, " b"]


class Metric(ABC):
    @abstractmethod
    def add(self, examples: Examples) -> None:
        """Take in a batch; no example may come twice."""

    @abstractmethod
    def measure(self) -> list[Measurement]:
        """The numbers; with several ranks every rank calls it and gets those of all."""
