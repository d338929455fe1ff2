"""A metric takes in batches of a run's images and gives numbers in the end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ldm.metric.measurement import Measurement
from ldm.model import LatentModel
from ldm.types import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """A batch on one device; images (b, c, h, w) in [-1, 1].

    real, reconstruction: of the same held-out examples; generated: one for each of them, None where there is no prior;
    index: their rows in the held-out set; paired: whether each generated image was drawn for the caption or label of the
    real image in its row, which makes the two dependent; model, batch: the model that is measured, in eval mode, and the
    held-out batch as the data gave it, for what is asked of latents, context or prior: `model.latent(batch, random)`,
    `model.condition(batch)`, `model.prior`.
    """

    real: Image
    reconstruction: Image
    generated: Image | None
    captions: Sequence[str]
    index: Int[Tensor, " b"]
    paired: bool = True
    model: LatentModel | None = None
    batch: Mapping[str, Any] | None = None


class Metric(ABC):
    """
    Attributes:
        needs: columns of the data ("caption", "label") without which it measures nothing.
    """

    needs: tuple[str, ...] = ()

    def check(self, captions: Iterable[str]) -> None:
        """Look at held-out captions before anything is trained; ValueError where the metric cannot read one."""
        return

    @abstractmethod
    def add(self, examples: Examples) -> None:
        """Take in a batch; no example may come twice."""

    @abstractmethod
    def measure(self) -> list[Measurement]:
        """The numbers; with several ranks every rank calls it and gets those of all, though no batch came to it.

        A number that these images cannot give is left out, and `leave_out` says so.
        """


def leave_out(metric: str, wanted: str, came: str) -> None:
    """Say that a number will be missing, and why."""
    log.warning("%s is left out: it needs %s, and here are %s", metric, wanted, came)
