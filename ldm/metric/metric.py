"""Metrics: objects that are given the images of a run batch by batch, and return measured numbers at the end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ldm.cost import Spent
from ldm.metric.measurement import Measurement
from ldm.metric.scene import Scene
from ldm.model import LatentModel
from ldm.types import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """A batch for metrics, on one device. Images are (b, c, h, w) in [-1, 1].

    Fields:
        real, reconstruction: images of held-out examples, and their reconstructions; None where all held-out examples have
            come before and there are further generated images alone.
        generated: as many generated images; None where there is no prior.
        captions: that the generated images were drawn for, or those of the examples.
        index: the rows of the examples in the held-out set, (b,).
        paired: whether each generated image was drawn for the caption or label of the real image in its row, which makes
            the two dependent.
        model, batch: the model that is measured, in eval mode, and the held-out batch as the data gave it, for what is asked
            of latents, context or prior: `model.latent(batch, random)`, `model.condition(batch)`, `model.prior`; the batch is
            None where `real` is.
        drawing: what drawing and decoding the generated images took; None where they were not drawn now, but kept.
        place: the number of each generated image among all of them, (b,); None is that of its example.
        labels: that the generated images were drawn for, (b,); -1 and None for none.
    """

    real: Image | None
    reconstruction: Image | None
    generated: Image | None
    captions: Sequence[str]
    index: Int[Tensor, " b"]
    paired: bool = True
    model: LatentModel | None = None
    batch: Mapping[str, Any] | None = None
    place: Int[Tensor, " b"] | None = None
    labels: Int[Tensor, " b"] | None = None
    drawing: Spent | None = None

    @property
    def places(self) -> Int[Tensor, " b"]:
        """The number of each generated image among all of them, (b,)."""
        return self.index if self.place is None else self.place


@dataclass(frozen=True)
class Picture:
    """Images that a metric wants to be looked at.

    Fields:
        name: in the name of its file.
        rows: (title, images (n, c, h, w) in [-1, 1]) of sets that belong together.
        captions: below each column.
        title: a line for the report.
    """

    name: str
    rows: Sequence[tuple[str, Image]]
    captions: Sequence[str]
    title: str


class Metric(ABC):
    """Measures images. A new one writes `add` and `measure`.

    Attributes:
        needs: columns of the data ("caption", "label") without which it measures nothing.
        names: patterns, as of a shell, that the names of its numbers fit.
        scene: what a measuring stands on, once it has begun; None where batches are added without one.
    """

    needs: tuple[str, ...] = ()
    names: tuple[str, ...] = ("*",)
    scene: Scene | None = None

    def check(self, captions: Iterable[str]) -> None:
        """Check held-out captions before anything is trained; ValueError where the metric cannot read one of them."""
        return

    def missing(self) -> Sequence[str]:
        """What will not be measured on this machine, a line with the reason for each: told before anything is trained."""
        return ()

    def begin(self, scene: Scene) -> None:
        """A measuring begins: called on all ranks, before the first batch. One that learns from real images does so here."""
        self.scene = scene

    @abstractmethod
    def add(self, examples: Examples) -> None:
        """Add a batch; no example may be added twice."""

    @abstractmethod
    def measure(self) -> list[Measurement]:
        """The measurements over everything that was added. With several ranks all of them call this, also one without any
        batch, and each gets the measurements over all ranks.

        A number that cannot be computed from these images is left out with `leave_out`.
        """

    def pictures(self) -> list[Picture]:
        """What is to be looked at beside the numbers, after `measure`; the same on all ranks."""
        return []


def leave_out(metric: str, wanted: str, came: str) -> None:
    """Warn that a number, or several with commas between them, is missing: which, what it needs, and what there is."""
    verbs = "are left out: they need" if ", " in metric else "is left out: it needs"
    log.warning("%s %s %s, and here are %s", metric, verbs, wanted, came)
