"""A class label as one learnt token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import nn

from ldm.condition.conditioner import Conditioner
from ldm.types import Context, ContextShape


class Label(Conditioner):
    """
    Arguments:
        classes: how many labels there are; they count from 0, and -1 is 'no condition'.
        width: of the token.
    """

    needs = ("label",)

    def __init__(self, classes: PositiveInt, width: PositiveInt = 128):
        super().__init__()
        self.classes, self.shape = classes, ContextShape(tokens=width)
        self.tokens = nn.Embedding(classes + 1, width)  # the last row is 'no condition'

    def forward(self, batch: Mapping[str, Any]) -> Context:
        label = batch.get("label")
        if label is None:
            if "index" not in batch:
                raise KeyError("condition=label needs batch['label']; this data has no labels: take condition=none")
            label = torch.full_like(batch["index"], -1)
        if label.device.type == "cpu" and ((label < -1) | (label >= self.classes)).any():
            raise ValueError(
                f"labels are 0 to {self.classes - 1}, or -1 for none; got {int(label.min())} to {int(label.max())}: "
                "condition.classes must be the number of the data's classes"
            )
        row = torch.where(label < 0, self.classes, label)
        mask = torch.ones(1, 1, dtype=torch.bool, device=row.device)
        empty = Context(tokens=self.tokens.weight[-1:][None], mask=mask)
        return Context(tokens=self.tokens(row)[:, None], mask=mask.expand(len(row), 1), empty=empty)

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""
