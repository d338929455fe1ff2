"""Which real images samples are compared with, and which captions or labels they are drawn for.

The rows of a split stand in a random order that is always the same, so that the first n of a set that is sorted by class are a
fair sample, and a smaller evaluation is a part of a larger one.

    reference   the first m rows of `val` or of `train`
    others      as many real images as samples, for the distance that real images have from the reference: further rows of the
                same split where they suffice, or else rows of the other split
    labels      "reference": sample i has the caption or label of reference image i mod m, with noise of its own;
                "balanced": label i mod k of k labels; "sampled": of a random row of the other split, so that samples and
                reference are independent

The law moves distances. Balanced labels give a smaller distance than labels of their own law where the reference is balanced,
and labels of the reference itself a smaller one still, since then label frequencies agree exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ldm.data.caption import clean
from ldm.data.items import NO_LABEL
from ldm.data.module import DataModule, Split
from ldm.metric.scene import LabelLaw, RealImages
from ldm.random import Random
from ldm.run.store import key_of

Count = int | Literal["all"] | None
_OTHER: dict[Split, Split] = {"val": "train", "train": "val"}


def shuffled(count: int) -> list[int]:
    """The rows of a set of this size in the order in which they are taken."""
    return torch.argsort(Random(0, 0, torch.arange(count)).uniform("reference"), stable=True).tolist()


def real_images(data: DataModule, split: Split, places: slice = slice(None)) -> RealImages | None:
    """The images of a split at these places of its order; None where it is streamed."""
    source = data.sources[split]
    if source.stream is not None:
        return None
    rows = shuffled(len(source))[places]
    key = key_of([source.fingerprint, data.plain.key, data.on_error, places.indices(len(source))])

    def labels() -> list[int | None]:
        every = list(source.labels())
        return [every[row] for row in rows]

    found = labels if "label" in source.columns else None
    return RealImages(split, rows, key, lambda chosen: data.items(split, chosen), found)


def reference_size(data: DataModule, split: Split, asked: Count, samples: int) -> int:
    """How many images the reference has: as asked, or as many as samples, where there are so many.

    Raises:
        ValueError: there are fewer than were asked for, or the split is streamed.
    """
    source = data.sources[split]
    if source.stream is not None:
        raise ValueError(
            f"evaluation.reference={split}: this split is streamed and has no rows to be named; take evaluation.reference=val"
        )
    if asked == "all":
        return len(source)
    if asked is not None and asked > len(source):
        raise ValueError(
            f"evaluation.reference_images={asked}: the {split} split has {len(source)}; take fewer, all, or "
            f"evaluation.reference={_OTHER[split]}"
        )
    return min(samples, len(source)) if asked is None else asked


def others(data: DataModule, split: Split, size: int, count: int) -> RealImages | None:
    """`count` real images that are not among the first `size` of `split`; None where there are not so many."""
    if len(data.sources[split]) - size >= count:
        return real_images(data, split, slice(size, size + count))
    other = data.sources[_OTHER[split]]
    if other.stream is None and len(other) >= count:
        return real_images(data, _OTHER[split], slice(count))
    return None


@dataclass(frozen=True)
class Wanted:
    """What samples are drawn for.

    Fields:
        law: of labels and captions; None where a model is conditioned on nothing.
        split, rows: sample i is drawn for the caption and label of row i mod m of the m rows of a split.
        period: the size of that split: noise of a row's further samples has numbers this far apart.
        classes: of balanced labels.
        images: whether a condition reads the images of those rows, too.
    """

    law: LabelLaw | None
    split: Split
    rows: Sequence[int]
    period: int
    classes: int
    images: bool = False

    def row(self, place: int) -> int:
        """Of the sample at this place."""
        return self.rows[place % len(self.rows)]

    def number(self, place: int) -> int:
        """Names the noise of the sample at this place: its row, so that a row has the same image in any evaluation."""
        if self.law in ("balanced", "sampled"):
            return place
        return self.row(place) + self.period * (place // len(self.rows))

    def batch(self, data: DataModule, places: Sequence[int]) -> dict[str, Any]:
        """Captions and labels of the samples at these places, and images, as a condition reads them."""
        if self.images:
            return data.items(self.split, [self.row(place) for place in places])
        if self.law == "balanced":
            return {"label": torch.tensor(places) % self.classes}
        facts = [data.sources[self.split].facts(self.row(place)) for place in places]
        known = [NO_LABEL if each.get("label") is None else int(each["label"]) for each in facts]
        return {"caption": [clean(each.get("caption"))[0] for each in facts], "label": torch.tensor(known)}


def wanted(data: DataModule, needs: Sequence[str], law: LabelLaw, split: Split, size: int, samples: int) -> Wanted:
    """What the samples of a model whose condition reads `needs` are drawn for.

    Arguments:
        split, size: of the reference.

    Raises:
        ValueError: the data have nothing of this law.
    """
    count = len(data.sources[split])
    if law == "balanced" and needs:
        if tuple(needs) != ("label",) or not data.label_count:
            raise ValueError(
                f"evaluation.labels=balanced takes each label equally often, and this model is conditioned on "
                f"{', '.join(needs)}; take evaluation.labels=reference or sampled"
            )
        return Wanted(law, split, range(count), count, data.label_count)
    if law == "sampled" and needs:
        other = _OTHER[split]
        source = data.sources[other]
        if source.stream is not None:
            raise ValueError(
                f"evaluation.labels=sampled takes random rows of the {other} split, which is streamed; take reference"
            )
        u = Random(0, 0, torch.arange(samples)).uniform("labels")
        return Wanted(law, other, (u.double() * len(source)).long().tolist(), len(source), 0, "image" in needs)
    return Wanted("reference" if needs else None, split, shuffled(count)[:size], count, 0, "image" in needs)
