"""Averages of weights, kept beside the weights theta that are trained: m <- d_n m + (1 - d_n) theta after update n, where the
decays d_n are those of a profile.

Parameters are averaged; buffers (codebooks, statistics) are used as they are. Of a sharded parameter each rank averages its part.

Sources:
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2023), arXiv 2312.02696
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
    """The decays of an average. A new one writes `decay`."""

    @abstractmethod
    def decay(self, n: int) -> float:
        """d_n: the factor of the old average when the weights of update n, counted from 0, are added."""


class WarmUp(Profile):
    """The exponential average with warm-up, d_n = min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage. By
    the warm-up the average forgets the random initial weights.

    Arguments:
        decay: the upper bound of d_n. It is at most 1 - 10 / steps, so that in a short run the average is over its last part.
        steps: the length of the run in updates, as far as it is known; may be set anew on the way.
    """

    def __init__(self, decay: float, steps: float | int):
        self.most, self.steps = decay, steps

    def decay(self, n: int) -> float:
        return min(self.most, max(0.0, 1 - 10 / max(self.steps, 1)), (1 + n) / (10 + n))


class Power(Profile):
    """The power-function average, d_n = (1 - 1 / (n + 1))^(g + 1) (Karras et al. 2023, section 3.1; see ldm.run.snapshots).

    Arguments:
        width: the relative standard deviation of the profile, which determines g.
    """

    def __init__(self, width: float):
        self.width, self.exponent = width, exponent(width)

    def decay(self, n: int) -> float:
        return (1 - 1 / (n + 1)) ** (self.exponent + 1)


class Average:
    """An average of the trainable parameters of a module.

    Arguments:
        module: the module.
        profile: how much the weights of each update count.
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
        """Add the present weights, after an update."""
        torch._foreach_lerp_(self.weights, self._live, 1 - self.profile.decay(self.updates))
        self.updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the module has the averaged weights. Nothing may be saved there."""
        raw = [p.detach().clone() for p in self._live]
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(raw)

    def keep(self) -> None:
        """Replace the weights of the module by the averaged ones, at the end of training."""
        self._put(self.weights)

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_(self._live, weights)
        let_go(self._module)

    def named(self) -> dict[str, Tensor]:
        """The averaged tensors by name, sharded as their parameters are."""
        tensors = [of_parts(own, like) for own, like in zip(self.weights, self._like, strict=True)]
        return dict(zip(self.names, tensors, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the number of updates and the averaged weights."""
        return {"updates": self.updates, "weights": self.named()}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Restore a state; ValueError where it is the state of another model."""
        self.updates = state["updates"]
        missing = set(self.names) ^ set(state["weights"])
        if missing:
            raise ValueError(f"the average of another model: {sorted(missing)[:5]} differ; start a new run")
        for name, own, like in zip(self.names, self.weights, self._like, strict=True):
            own.copy_(local(as_sharded(state["weights"][name], like)))


class Powers:
    """Two power-function averages, of which snapshots are stored in the course of a run (ldm.run.snapshots).

    Arguments:
        module: the module whose weights are averaged.
        count: how often snapshots are stored; with 0 there are no averages.
        steps: the length of the run in updates, or in units of its position (ldm.stage.budget).
    """

    WIDTHS = (0.05, 0.10)

    def __init__(self, module: nn.Module, count: int, steps: int):
        self.count, self.steps = count, steps
        self.averages = {width: Average(module, Power(width)) for width in self.WIDTHS} if count else {}

    def update(self) -> None:
        """Add the present weights to both averages."""
        for average in self.averages.values():
            average.update()

    def due(self, position: float | int, before: float | int) -> bool:
        """Whether snapshots are stored at a position, which was `before` an update ago: at equal distances, the last ones at
        the end."""
        return position * self.count // self.steps > before * self.count // self.steps

    def state_dict(self) -> dict[float, Any]:
        """The states of the averages, by their widths."""
        return {width: average.state_dict() for width, average in self.averages.items()}

    def load_state_dict(self, state: dict[float, Any]) -> None:
        """Restore a state. A run that was begun without these averages continues without them, because they have to include all
        updates."""
        if not self.averages.keys() <= state.keys():
            log.warning("this run was begun without snapshots of averages and goes on without; ema= will find none")
            self.averages = {}
        for width, average in self.averages.items():
            average.load_state_dict(state[width])
