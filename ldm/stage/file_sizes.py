"""How large the files of a stage will be, from shapes and its recipe.

A checkpoint holds the weights, their average, power-function averages where there are snapshots, and what the optimiser
remembers of each parameter, which a step on a parameter of six zeros shows (two moments for Adam).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm.run.checkpoint import bytes_of
from ldm.run.snapshots import halved
from ldm.stage.average import Powers
from ldm.stage.recipe import Recipe
from ldm.stage.settings import History
from ldm.tensors import size_of


@dataclass(frozen=True)
class FileSizes:
    """Bytes: of one checkpoint, of those that stay, and of all snapshots."""

    checkpoint: int
    checkpoints: int
    snapshots: int


def of_stage(
    trained: Mapping[str, nn.Module], averaged: Mapping[str, nn.Module], recipe: Recipe, history: History
) -> FileSizes:
    """The files of a stage that is trained to its end.

    Arguments:
        trained, averaged: by the names that they have in a checkpoint.
        history: that the checkpoints will carry.
    """
    modules = nn.ModuleDict(trained)
    learnt = {name: _meta(p) for name, p in nn.ModuleDict(averaged).named_parameters() if p.requires_grad}
    average = {"updates": 0, "weights": learnt}
    state = {
        "history": history,
        "weights": {name: _meta(value) for name, value in modules.state_dict().items()},
        "average": average,
        "powers": {width: average for width in Powers.WIDTHS} if recipe.snapshots else {},
        "optimizers": {"": _remembered(recipe, [_meta(p) for p in modules.parameters() if p.requires_grad])},
    }
    if recipe.keep_best is not None:
        state["best"] = learnt
    checkpoint = bytes_of(state)
    saves = -(-recipe.steps // recipe.save_every) if recipe.save_every else 1
    count = min(recipe.snapshots, recipe.steps)
    exact, half = size_of(learnt), size_of({name: halved(value) for name, value in learnt.items()})
    snapshots = len(Powers.WIDTHS) * (exact + (count - 1) * half) if count else 0
    return FileSizes(checkpoint, min(2, saves) * checkpoint, snapshots)


def _meta(value: Any) -> Any:
    """A tensor's shape and type without its numbers; what else a module keeps, as it is."""
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _remembered(recipe: Recipe, parameters: list[Tensor]) -> dict[str, Any]:
    """The optimiser's state for parameters of these shapes."""
    probe = nn.Parameter(torch.zeros(2, 3))
    probe.grad = torch.zeros(2, 3)
    optimizer = recipe.optimizer([probe])
    optimizer.step()
    found = optimizer.state_dict()

    def like(value: Any, parameter: Tensor) -> Any:
        """What is as large as the probe is as large as the parameter."""
        is_whole = isinstance(value, Tensor) and value.shape == probe.shape
        return torch.empty_like(parameter, dtype=value.dtype) if is_whole else _meta(value)

    one = found["state"].get(0, {})
    state = {i: {name: like(value, p) for name, value in one.items()} for i, p in enumerate(parameters)}
    groups = [{**group, "params": list(range(len(parameters)))} for group in found["param_groups"]]
    return {"state": state, "param_groups": groups}
