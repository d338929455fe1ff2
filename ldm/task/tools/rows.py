"""A task over all of its rows, batch by batch: which rows there are, what each is given, and what is said of all together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.data.inputs import Inputs
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Task
from ldm.task.tools.conditions import Conditions


class Rows:
    """The rows of a task: those of the images given and then those of `others`.

    Arguments:
        task: what is done; checked against the model.
        model: by which.
        images: that it is done with; None for a task that takes none.
        others: further ones, whose numbers are told apart.
        conditions: a caption or a label of every row, or one for all, or none.
        seed: of the rows' random numbers.

    Raises:
        ValueError: the model cannot do this, images are given to a task that takes none or are not given to one that does, or
            there are too few; or there are not as many conditions as rows.
    """

    def __init__(
        self,
        task: Task,
        model: LatentModel,
        images: Inputs | None = None,
        others: Inputs | None = None,
        conditions: Conditions | None = None,
        seed: int = 0,
    ):
        task.check(model)
        if task.takes == 0 and images is not None:
            raise ValueError(f"task={task.word} takes no images; leave images= out")
        if task.takes > 0 and images is None:
            raise ValueError(f"task={task.word} takes images: give images=FILE or images=DIR")
        if images is not None and len(images) < task.takes:
            raise ValueError(f"task={task.word} wants {task.takes} images at least, and there is {len(images)}")
        self.task, self.model, self.seed, self.conditions = task, model, seed, conditions or Conditions()
        self._sets = [] if images is None else [images] if others is None else [images, others]
        counts = [task.count(model, len(each)) for each in self._sets] or [task.count(model, 0)]
        self.first, self.count = counts[0], sum(counts)
        self.conditions.check(self.count, "images" if task.takes == 1 else "rows")

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        """What a row is called: its image, its images from the first to the last, or as the task calls it."""
        if not self._sets:
            return self.task.name(row)
        images, start = self._place(row)
        ends = dict.fromkeys((images.names[start], images.names[start + self.task.takes - 1]))
        return " to ".join(ends)

    def _place(self, row: int) -> tuple[Inputs, int]:
        """The set that a row is of, and the number of its first image in it."""
        return (self._sets[0], row) if row < self.first else (self._sets[1], row - self.first)

    def _images(self, rows: Sequence[int]) -> Tensor:
        """(b, c, h, w), or (b, k, c, h, w) of rows of k images."""
        places = [self._place(row) for row in rows]
        found = torch.stack([images.batch(range(start, start + self.task.takes)) for images, start in places])
        return found[:, 0] if self.task.takes == 1 else found

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the task is given of these rows."""
        batch = self.conditions.batch(rows, self.model.device)
        if self._sets:
            batch["image"] = self._images(rows).to(self.model.device)
        return batch

    def answers(self, missing: Sequence[int], batch: int) -> Iterator[tuple[list[int], Answer]]:
        """The answers for rows, so many at once; what is not finite is refused."""
        if missing:
            self.task.begin(self.model)
        for start in range(0, len(missing), batch):
            rows = list(missing[start : start + batch])
            given = self.batch(rows)
            with torch.no_grad():
                answer = self.task(self.model, given, Random(self.seed, 0, given["index"]))
            for name, picture in answer.pictures.items():
                if not picture.isfinite().all():
                    raise ArithmeticError(
                        f"task={self.task.word}: of {', '.join(map(self.name, rows[:4]))} the picture {name} is not of finite "
                        "numbers: guidance= is too great, or the run diverged"
                    )
            yield rows, answer


def summary(numbers: Mapping[str, Tensor], first: int) -> dict[str, Any]:
    """name -> mean, its standard error (of two rows or more) and how many rows, of the rows given and, where there are more than
    the first so many, of the others; rows whose number is NaN are left out."""
    found = {}
    for name, values in numbers.items():
        found[name] = _mean(values[:first])
        if len(values) > first:
            found[name]["others"] = _mean(values[first:])
    return found


def _mean(values: Tensor) -> dict[str, Any]:
    values = values.double()
    values = values[~values.isnan()]
    if not len(values):
        return {"n": 0}
    error = {"standard_error": float(values.std() / len(values) ** 0.5)} if len(values) > 1 else {}
    return {"mean": float(values.mean()), **error, "n": len(values)}
