"""Averages of weights, beside the raw ones: m <- d_n m + (1 - d_n) theta after update n, with d_n from a profile.

The average holds parameters; buffers (codebooks, statistics) are taken as they are. Of a sharded parameter each rank averages
its part.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ldm.run.snapshots import exponent
from ldm.stage.sharding import as_sharded, let_go, local, of_parts

log = logging.getLogger(__name__)


class Profile(ABC):
    @abstractmethod
    def decay(self, n: int) -> float:
        """What stays of the average when the weights of update n (from 0) come in."""


class WarmUp(Profile):
    """Exponential: d_n = min(decay, (1 + n) / (10 + n)). The warm-up lets the average forget the random start (as in
    TensorFlow's ExponentialMovingAverage).

    Arguments:
        decay: upper bound; on runs of n updates at most 1 - 10 / n is used, so that a short run's average is of its end.
        steps: the length of the run in updates.
    """

    def __init__(self, decay: float, steps: int):
        self.bound = min(decay, max(0.0, 1 - 10 / max(steps, 1)))

    def decay(self, n: int) -> float:
        return min(self.bound, (1 + n) / (10 + n))


class Power(Profile):
    """A power function of the update: d_n = (1 - 1 / (n + 1))^(g + 1) (arXiv 2312.02696, section 3.1; see ldm.run.snapshots).

    Arguments:
        width: relative standard deviation of the profile.
    """

    def __init__(self, width: float):
        self.width, self.exponent = width, exponent(width)

    def decay(self, n: int) -> float:
        return (1 - 1 / (n + 1)) ** (self.exponent + 1)


class Average:
    """
    Arguments:
        module: whose trainable parameters are averaged.
        profile: how much each update's weights count.
    """

    def __init__(self, module: nn.Module, profile: Profile):
        self._module = module
        live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.profile, self.updates = profile, 0
        self.names, self._like = list(live), list(live.values())
        self._live = [local(p) for p in self._like]
        self.weights = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.weights, self._live, 1 - self.profile.decay(self.updates))
        self.updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the module while the block lasts; nothing may be saved inside it."""
        raw = [p.detach().clone() for p in self._live]
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(raw)

    def keep(self) -> None:
        """Put the averaged weights into the module for good: the training is over."""
        self._put(self.weights)

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_(self._live, weights)
        let_go(self._module)

    def named(self) -> dict[str, Tensor]:
        """name -> averaged tensor, sharded as its parameter is."""
        tensors = [of_parts(own, like) for own, like in zip(self.weights, self._like, strict=True)]
        return dict(zip(self.names, tensors, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.named()}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        missing = set(self.names) ^ set(state["weights"])
        if missing:
            raise ValueError(f"the average of another model: {sorted(missing)[:5]} differ; start a new run")
        for name, own, like in zip(self.names, self.weights, self._like, strict=True):
            own.copy_(local(as_sharded(state["weights"][name], like)))


class Powers:
    """Two power-function averages, of which snapshots are stored `count` times in a run; none where that is 0."""

    WIDTHS = (0.05, 0.10)

    def __init__(self, module: nn.Module, count: int, steps: int):
        self.count, self.steps = count, steps
        self.averages = {width: Average(module, Power(width)) for width in self.WIDTHS} if count else {}

    def update(self) -> None:
        for average in self.averages.values():
            average.update()

    def due(self, updates: int) -> bool:
        """Whether a snapshot is stored after so many updates: at equal distances, the last at the end."""
        return updates * self.count // self.steps > (updates - 1) * self.count // self.steps

    def state_dict(self) -> dict[float, Any]:
        return {width: average.state_dict() for width, average in self.averages.items()}

    def load_state_dict(self, state: dict[float, Any]) -> None:
        """A run that was begun without them goes on without: they are of all updates or of none."""
        if not self.averages.keys() <= state.keys():
            log.warning("this run was begun without snapshots of averages and goes on without; ema= will find none")
            self.averages = {}
        for width, average in self.averages.items():
            average.load_state_dict(state[width])
