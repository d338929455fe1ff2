"""No condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ldm.condition.conditioner import Conditioner
from ldm.types import Context, ContextShape


class Unconditional(Conditioner):
    """The conditioner of a model without conditions: an empty context."""

    needs = ()

    def __init__(self) -> None:
        super().__init__()
        self.shape = ContextShape()

    def forward(self, batch: Mapping[str, Any]) -> Context:
        """The empty context."""
        return Context()

    def fit(self, captions: Iterable[str]) -> None:
        """Nothing to learn."""
