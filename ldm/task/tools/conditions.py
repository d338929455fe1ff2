"""What images are drawn for: a caption or a label for each row, checked against what a model is conditioned on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ldm.condition.label import Label
from ldm.model import LatentModel
from ldm.random import Random
from ldm.types import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """Captions or labels, one a row or one for all rows, of which at most one kind is there.

    Fields:
        count: how many rows there are; 1 is also one condition for all of any number.
        captions, labels: of these rows.
        negative: a caption to move away from, of all rows.
    """

    count: int = 1
    captions: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    negative: str | None = None

    def check(self, rows: int, called: str = "images") -> None:
        """ValueError where they are neither one for all nor one for each of so many rows, which a message calls so."""
        if self.count not in (1, rows):
            kind = "labels" if self.captions is None else "captions"
            rows_said = f"{rows} {called}" if rows != 1 else f"1 {called.removesuffix('s')}"
            raise ValueError(f"{self.count} {kind} for {rows_said}: give one for each, or one for all")

    def batch(self, rows: Sequence[int], device: torch.device) -> dict[str, Any]:
        """A batch as `LatentModel.sample` takes it, of these rows."""
        batch: dict[str, Any] = {"index": torch.tensor(list(rows), device=device)}
        own = [0] * len(rows) if self.count == 1 else rows
        if self.captions is not None:
            batch["caption"] = [self.captions[i] for i in own]
        if self.labels is not None:
            batch["label"] = torch.tensor([self.labels[i] for i in own], device=device)
        return batch if self.negative is None else batch | {"negative": self.negative}

    def words(self, model: LatentModel) -> list[str] | None:
        """What stands below the images: captions or the names of classes."""
        if self.captions is not None:
            return list(self.captions)
        return None if self.labels is None else [class_named(model, label) for label in self.labels]


def conditions(
    model: LatentModel,
    captions: Sequence[str] | None,
    labels: Sequence[str | int] | None,
    n: int = 1,
    negative: str | None = None,
    said: tuple[str, str] = ("captions", "labels"),
) -> Conditions:
    """`n` rows of each caption or of each label (a class's name or number), one after the other; n without a condition where
    neither is given. ValueError where the model knows no such condition.

    Arguments:
        said: what captions and labels are called in messages.
    """
    if captions is not None and labels is not None:
        raise ValueError(f"one kind of condition at a time; got {said[0]} and {said[1]}")
    needs = model.condition.needs
    for given, word, kind in ((captions, said[0], "caption"), (labels, said[1], "label")):
        if given is not None and kind not in needs:
            knows = f"is conditioned on {', '.join(needs)}" if needs else "has no condition"
            raise ValueError(f"{word}= is given, but this model {knows}")
        if given is not None and not given:
            raise ValueError(f"{word}= is empty: give one at least, or leave it out")
    if negative is not None:
        model.negative(negative)  # refused before anything is drawn
    if labels is not None:
        numbers = [model.condition.find(Label).number(label) for label in labels]
        return Conditions(len(numbers) * n, None, [each for each in numbers for _ in range(n)], negative)
    if captions is None and "caption" in needs:
        captions = [""]
    if captions is not None:
        return Conditions(len(captions) * n, [each for each in captions for _ in range(n)], None, negative)
    return Conditions(n, None, None, negative)


def check_whole(model: LatentModel) -> None:
    """ValueError where nothing is given of an image and the model has not learnt to draw without."""
    if "image" not in model.condition.needs:
        return
    word = type(model.condition).__name__
    if model.condition.drop == 0:
        raise ValueError(
            f"this model is conditioned on a part of each image ({word}), and condition.drop=0 never trained it to draw "
            "without one; give it images: ldm apply task=inpaint or task=super_resolution"
        )
    log.info(
        "this model is conditioned on a part of each image (%s): nothing of one is given here, so whole images are drawn; "
        "ldm apply task=inpaint and task=super_resolution give it images",
        word,
    )


def class_named(model: LatentModel, label: int) -> str:
    """The name of a class, or its number where it has none."""
    own = model.condition.find(Label)
    return own.names[label] if own is not None and 0 <= label < len(own.names) else f"class {label}"


def draw(model: LatentModel, asked: Conditions, rows: Sequence[int], seed: int) -> Image:
    """The images (b, c, h, w) in [-1, 1] of these rows: image i is a function of (seed, i) and its condition. ArithmeticError
    where they are not finite numbers."""
    batch = asked.batch(rows, model.device)
    images = model.sample(batch, Random(seed, 0, batch["index"]))
    if not images.isfinite().all():
        raise ArithmeticError("images are not finite numbers: guidance= is too great, or the run diverged")
    return images
