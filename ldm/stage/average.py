"""Exponential moving average of weights, beside the raw ones.

decay_n = min(decay, (1 + n) / (10 + n)): the warm-up lets the average forget the random start (as in TensorFlow's
ExponentialMovingAverage). The average holds parameters; buffers (codebooks, statistics) are taken as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ldm.types import Probability


class Average:
    """
    Arguments:
        module: whose trainable parameters are averaged.
        decay: upper bound; on runs of n updates at most 1 - 10 / n is used, so that a short run's average is of its end.
        steps: the length of the run in updates.
    """

    def __init__(self, module: nn.Module, decay: Probability, steps: int):
        self.module, self.decay, self.updates = module, min(decay, max(0.0, 1 - 10 / max(steps, 1))), 0
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        self.weights = [p.detach().clone() for p in self._live()]

    def _live(self) -> list[nn.Parameter]:
        own = dict(self.module.named_parameters())
        return [own[name] for name in self.names]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.weights, [p.detach() for p in self._live()], 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the module while the block lasts; nothing may be saved inside it."""
        live = self._live()
        with torch.no_grad():
            raw = [p.detach().clone() for p in live]
            torch._foreach_copy_(live, self.weights)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, raw)

    @torch.no_grad()
    def keep(self) -> None:
        """Put the averaged weights into the module for good: the training is over."""
        torch._foreach_copy_(self._live(), self.weights)

    def state_dict(self) -> dict[str, Any]:
        """name -> averaged tensor, beside `updates`."""
        return {"updates": self.updates, "weights": dict(zip(self.names, self.weights, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        missing = set(self.names) ^ set(state["weights"])
        if missing:
            raise ValueError(f"the average of another model: {sorted(missing)[:5]} differ; start a new run")
        for name, own in zip(self.names, self.weights, strict=True):
            own.copy_(state["weights"][name])
