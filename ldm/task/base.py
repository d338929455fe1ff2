"""What people do with a trained model, beside drawing samples of it: a task.

A task is a class of ldm.task, a file of its own, and a word of conf/task; its constructor's arguments are its words. What tasks
share with each other, and with those who have them done, is in ldm/task/tools.

A task is handed a batch of rows, mostly an image each, and answers with pictures, numbers and arrays of each row. Which files are
read and written is not its affair: `ldm.task.tools.rows` goes through the rows, for `ldm apply` and for the Python API alike.

What it makes of a row is a function of that row's images, of its condition and of (seed, number of the row) alone, so it is the
same whatever the batch, and a job that was interrupted goes on with the rows that are not there yet.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float, UInt8
from torch import Tensor

from ldm import prior as families
from ldm.constructed import Constructed
from ldm.model import LatentModel
from ldm.prior.base import Prior
from ldm.random import Random
from ldm.types import Image


@dataclass(frozen=True)
class Answer:
    """What a task makes of a batch of rows.

    Fields:
        pictures: name -> (b, c, h, w) in [-1, 1], in the order in which they are looked at, all of one size.
        numbers: name -> (b,).
        arrays: name -> (b, ...), what is neither a picture nor a number, as latents.
    """

    pictures: Mapping[str, Image] = field(default_factory=dict)
    numbers: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a task has made of all rows.

    Fields:
        names: of the rows, as `cat/1.png`.
        first: how many of them are of the images given; the rest are of `Task.others`.
        numbers: name -> (n,), float64.
        arrays: name -> (n, ...).
        pictures: row -> its pictures by name, 8 bits (3, h, w).
    """

    names: Sequence[str]
    first: int
    numbers: Mapping[str, Float[Tensor, " n"]]
    arrays: Mapping[str, Tensor]
    pictures: Callable[[int], Mapping[str, UInt8[Tensor, "3 h w"]]]


class Task(Constructed, ABC):
    """Something that is done with images and a trained model. A new one writes `check` and `__call__`.

    Attributes:
        takes: how many images a row is of: 1, 0 of a task that is given none, or k for rows of k images that follow each other,
            0 to k - 1, 1 to k and so on.
        asks_prior: whether it asks the prior, which then has to be a trained one; otherwise a first stage alone will do.
        others: further images, a file or a folder, on which the task is done too and whose numbers are told apart.
    """

    takes: ClassVar[int] = 1
    asks_prior: bool = True
    others: Path | None = None

    @abstractmethod
    def check(self, model: LatentModel) -> None:
        """ValueError where the model cannot do this; it says by name what is missing, and what has it (`lacks`)."""

    @abstractmethod
    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        """The answer for a batch of rows, without gradients.

        Arguments:
            model: in evaluation mode, on the device of the batch.
            batch: `index` (b,), the numbers of the rows; `image` (b, c, h, w) in [-1, 1], or (b, k, c, h, w) of rows of k images;
                and what the model is conditioned on, where it was said: `caption`, a text for each row, or `label` (b,). So
                `model.condition(batch)` is the rows' context.
            random: of these rows.
        """

    def begin(self, model: LatentModel) -> None:
        """What has to be known before the first row: a second model, what ordinary images are like."""

    def way(self, model: LatentModel) -> str | None:
        """By what the task is done with this model, in words, where that follows from what the model is; None elsewhere."""
        return None

    def count(self, model: LatentModel, images: int) -> int:
        """How many rows there are of so many images."""
        return max(images - self.takes + 1, 0)

    def shown(self, rows: int, most: int) -> Sequence[int]:
        """Which of so many rows a picture has that has room for `most`: the first ones."""
        return range(min(rows, most))

    def name(self, row: int) -> str:
        """What a row is called that is of no image."""
        return f"{row}"

    def facts(self) -> dict[str, Any]:
        """What it is given beside images and its words, as plain data: a job of other such things is another job."""
        return {}

    def conclude(self, found: Found) -> dict[str, Any]:
        """What is to be said of all rows together, as plain data; means and errors of numbers are said anyway."""
        return {}

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        """Further files, beside the pictures, whole or not at all; their paths."""
        return []

    @property
    def word(self) -> str:
        """The task as messages call it: the name of its module, which is its word."""
        return type(self).__module__.rpartition(".")[2]


def having(capability: type | tuple[type, ...]) -> list[str]:
    """The families of priors that are of a kind or have a capability (one of several), by their classes' names."""
    found = set()
    for each in pkgutil.iter_modules(families.__path__, f"{families.__name__}."):
        if not each.ispkg:
            own = vars(importlib.import_module(each.name)).values()
            found |= {kind for kind in own if inspect.isclass(kind) and issubclass(kind, Prior)}
    return sorted(kind.__name__ for kind in found if issubclass(kind, capability) and not inspect.isabstract(kind))


def lacks(task: Task, model: LatentModel, capability: type | tuple[type, ...], said: str) -> None:
    """ValueError where the model's prior has none of the capabilities; `said` is that in words, as `densities`."""
    if not isinstance(model.prior, capability):
        raise ValueError(lacking(f"task={task.word}", model, capability, said))


def lacking(what: str, model: LatentModel, capability: type | tuple[type, ...], said: str) -> str:
    """The message that `what` cannot be done, and by which families it can."""
    return (
        f"{what} needs a prior with {said}, and this model's, {type(model.prior).__name__}, has none. These have: "
        f"{', '.join(having(capability))}"
    )


def apart(x: Image, y: Image) -> Float[Tensor, " b"]:
    """The root mean squared difference of images, (b,)."""
    return (x - y).square().flatten(1).mean(1).sqrt()
