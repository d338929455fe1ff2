"""A player: one side of a training game, with its own parameters, loss and optimiser. Two in a GAN, one elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ldm.random import Random
from ldm.stage.sharding import as_sharded, put_together

Terms = dict[str, Tensor]


@dataclass
class Player:
    """One side of a training game with its optimiser.

    Fields:
        parameters: what it moves; disjoint from the other players'.
        loss: (batch, random, shared) -> (terms whose sum it minimises, values only logged); no terms: it sits this
            update out. `shared` is a dict that lives for one batch, for what players would compute twice.
        optimizer: waits for parameters.
    """

    name: str
    parameters: list[nn.Parameter]
    loss: Callable[[dict[str, Any], Random, dict[str, Any]], tuple[Terms, Terms]]
    optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    built: torch.optim.Optimizer = field(init=False)
    rates: list[float] = field(init=False)

    def build(self) -> torch.optim.Optimizer:
        """Its optimiser, made now; `rates` are those that it was made with."""
        self.built = self.optimizer(self.parameters)
        self.rates = [group["lr"] for group in self.built.param_groups]
        return self.built

    def set_rate(self, factor: float) -> None:
        """Let the learning rates of the next step be `factor` times those that the optimiser was made with."""
        for group, rate in zip(self.built.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The optimiser's state, with whole tensors, on any number of ranks."""
        parameters = [p for group in self.built.param_groups for p in group["params"]]
        remembered = {
            i: {name: as_sharded(value, parameters[i]) for name, value in values.items()}
            for i, values in state["state"].items()
        }
        self.built.load_state_dict(state | {"state": remembered})

    def step(self, clip: float, scaler: torch.amp.GradScaler | None) -> Tensor:
        """Clip and step; the gradient's norm before clipping (a device scalar). A non-finite one moves nothing.

        Without a wait for the device where the optimiser can skip by a flag on the device (torch's fused ones).
        """
        if scaler is not None:
            scaler.unscale_(self.built)
        norm = put_together(torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        if scaler is not None:
            scaler.step(self.built)
        elif all(group.get("fused") for group in self.built.param_groups):
            # The protocol of torch.amp.GradScaler with fused optimisers: the kernel skips where found_inf is 1.
            self.built.found_inf = (~torch.isfinite(norm)).float()
            self.built.grad_scale = None
            self.built.step()
            del self.built.found_inf, self.built.grad_scale
        elif bool(torch.isfinite(norm)):
            self.built.step()
        self.built.zero_grad(set_to_none=True)
        return norm


@contextlib.contextmanager
def alone(player: Player, players: Sequence[Player]) -> Iterator[None]:
    """Only `player`'s parameters take gradients, so that no other's are left on them for its own step."""
    others = [p for other in players if other is not player for p in other.parameters]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
