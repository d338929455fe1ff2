"""What a measuring stands on beside its examples: the real images that samples are compared with, other real images, the
training set, and what was computed of them before.

Statistics of real images and a network that was trained on them are the same for all runs on these data. They are made once
and kept (`Artifacts`), under a key that names all that they depend on.

Which samples belong to which real images follows from what samples were drawn for. Sample i was drawn for the caption or label
of reference image i mod m where that is the law of labels (`paired`), and is independent of all of them otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

LabelLaw = Literal["reference", "balanced", "sampled"]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class RealImages:
    """Some images of a split, by their rows.

    Fields:
        split: "train" or "val".
        rows: of the images, in a random order that is always the same: any first part is a fair sample.
        key: names which images of which data they are, and how stored images become tensors.
        read: a batch of the data set, given rows: `image` (b, c, h, w) in [-1, 1], and perhaps `label`, `caption`.
        labels: of all these images without reading them, a list of ints and None; None where there are none.
    """

    split: str
    rows: Sequence[int]
    key: str
    read: Callable[[Sequence[int]], Mapping[str, Any]]
    labels: Callable[[], Sequence[int | None]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """What a record says of them, as `val:10000`."""
        return f"{self.split}:{len(self)}"

    def first(self, count: int) -> RealImages:
        """The first so many of them."""
        if count >= len(self):
            return self
        return replace(self, rows=self.rows[:count], key=f"{self.key}-{count}", labels=None)

    def batch(self, places: Sequence[int]) -> Mapping[str, Any]:
        """The images at these places of `rows`."""
        return self.read([self.rows[place] for place in places])


class Artifacts(ABC):
    """Keeps what was computed once."""

    @abstractmethod
    def kept(self, kind: str, key: str, made_from: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        """What `make` gives, or gave before under this key. All ranks call it, and `make` is called on all of them.

        Arguments:
            kind, key: its name; the key names all that it depends on.
            made_from: what a listing says of it: `split` and `weights`.
        """


class InMemory(Artifacts):
    """Keeps for as long as it lives itself."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Tensors] = {}

    def kept(self, kind: str, key: str, made_from: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        if (kind, key) not in self._found:
            self._found[kind, key] = make()
        return self._found[kind, key]


@dataclass(frozen=True)
class Scene:
    """What is known when a measuring begins.

    Fields:
        samples: how many images will be generated; 0 where none.
        image_shape: (c, h, w) of all images.
        device: that networks are put on.
        reference: the real images that samples are compared with.
        others: as many real images as samples, none of them among the reference; None where there are not so many.
        training, held_out: all images of a split; None where it is streamed.
        classes: the number of labels; 0 where there are none.
        labels: the law of the labels or captions that samples are drawn for; None where they are drawn for nothing.
        seen: the feature networks that a loss of the model saw.
        artifacts: keeps what is computed once.
        stop: a collective call that raises where the measuring is to end.
    """

    samples: int
    image_shape: tuple[int, int, int]
    device: torch.device
    reference: RealImages
    others: RealImages | None = None
    training: RealImages | None = None
    held_out: RealImages | None = None
    classes: int = 0
    labels: LabelLaw | None = None
    seen: Sequence[str] = ()
    artifacts: Artifacts = field(default_factory=InMemory)
    stop: Callable[[], None] = lambda: None

    @property
    def paired(self) -> bool:
        """Whether sample i was drawn for the caption or label of reference image i mod m."""
        return self.labels == "reference"

    def shares(self, count: int, batch: int) -> Iterator[list[int]]:
        """Batches of places 0 ... count - 1 for this rank, as many on each, the last perhaps empty. A batch holds the same
        places whatever the number of ranks. Stops where it is to."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        batches = -(-count // batch)
        for step in range(-(-batches // world)):
            self.stop()
            start = (step * world + rank) * batch
            yield list(range(start, min(start + batch, count)))
