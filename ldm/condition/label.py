"""A class label as one learnt token.

Labels count from 0, and -1 means "no condition", the learnt embedding for classifier-free guidance. The names of the classes
are an argument and so stand in the model's config: a saved model knows what its labels mean.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.condition.conditioner import Conditioner
from ldm.types import Context, ContextShape, Probability

_SHOWN = 40  # names in a message


class Label(Conditioner):
    """A learnt token for each class, and one for "no condition".

    Arguments:
        classes: number of labels; by default the number of names. A run reads both from its data.
        names: the names of the classes in the order of their labels; () where they have none.
        width: of the token.
        drop: the probability that an example is trained without its condition.
    """

    needs = ("label",)

    def __init__(
        self,
        classes: PositiveInt | None = None,
        names: tuple[str, ...] = (),
        width: PositiveInt = 128,
        drop: Probability = 0.1,
    ):
        super().__init__()
        self.drop = drop
        if classes is None and not names:
            raise ValueError(
                "condition=label: how many classes there are is read from the data of a run; without a run say "
                "condition.classes=N"
            )
        if names and classes not in (None, len(names)):
            raise ValueError(
                f"condition.classes={classes}, but {len(names)} classes have names: {listed(names)}; leave "
                "condition.classes out"
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"condition.names: {listed(twice)} stands there twice; each class has a name of its own")
        self.names, self.classes, self.shape = tuple(names), classes or len(names), ContextShape(tokens=width)
        self.tokens = nn.Embedding(self.classes + 1, width)  # the last row is 'no condition'

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """One token for each label, (b, 1, width); "no condition" for a batch without labels, outside of training.

        A label that this model does not have raises ValueError on the CPU. On a GPU reading the labels would mean waiting
        for the device, so there a failed assertion on the device ends the process.
        """
        label = batch.get("label")
        if label is None:
            if self.training or "index" not in batch:
                raise KeyError("condition=label needs batch['label']; this data has no labels: take condition=none")
            label = torch.full_like(batch["index"], -1)
        self._check(label)
        mask = torch.ones(1, 1, dtype=torch.bool, device=label.device)
        empty = Context(tokens=self.tokens.weight[-1:][None], mask=mask)
        return Context(tokens=self.embedded(label), mask=mask.expand(len(label), 1), empty=empty)

    def embedded(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b 1 d"]:
        """The token of each label, (b, 1, width), unchecked; of -1 that of "no condition"."""
        return self.tokens(torch.where(label < 0, self.classes, label))[:, None]

    def _check(self, label: Int[Tensor, " b"]) -> None:
        known = ((label >= -1) & (label < self.classes)).all()
        wanted = f"labels are 0 to {self.classes - 1}, or -1 for none"
        if label.device.type != "cpu":
            torch._assert_async(known, f"{wanted}; the data has others than condition.classes says")
        elif not known:
            raise ValueError(
                f"{wanted}; got {int(label.min())} to {int(label.max())}: condition.classes must be the number of the "
                "data's classes"
            )

    def number(self, word: str | int) -> int:
        """The label that a word stands for: the name of a class, or else its number, or -1 for no condition.

        Names come before numbers: where classes are called 3, 7 and 11, the word 7 means the second of them. `bag` is Bag where
        no other name is spelt so. Raises ValueError, with the names that there are, the most similar ones first.
        """
        if str(word) in self.names:
            return self.names.index(str(word))
        alike = [label for label, name in enumerate(self.names) if name.casefold() == str(word).casefold()]
        if len(alike) == 1:
            return alike[0]
        try:
            number = int(word)
        except ValueError:
            number = None
        if number is not None and -1 <= number < self.classes:
            return number
        numbers = f"0 to {self.classes - 1}, or -1 for none"
        if not self.names:
            raise ValueError(f"label={word}: this model's are {numbers}; its classes have no names")
        near = difflib.get_close_matches(str(word), self.names, 3, 0.5)
        near += [name for name in self.names if name not in near]
        raise ValueError(f"label={word}: no such class. There are {listed(near)}; or by number {numbers}")

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""


def listed(names: Iterable[str]) -> str:
    """Names separated by commas; of many, the first forty."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
