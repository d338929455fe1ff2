"""Recipes: how long and how a stage is trained. What is trained, and with which loss, is decided by the stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ldm.stage.average import WarmUp
from ldm.stage.budget import Budget, Spent
from ldm.stage.rate import Rate
from ldm.types import Probability

WATCHING = (
    *("log_every", "validate_every", "validate_images", "picture_every", "save_every", "snapshots", "patience"),
    *("accumulate", "compile", "again", "returns", "keep_best"),
)
"""The fields that do not change what a stage computes, or only its rounding."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a stage's training.

    Fields:
        steps: total number of updates of the model, whatever the number of optimisers; with a budget the unit of progress alone.
        optimizer: makes the optimiser, given the parameters.
        rate: the factor of the learning rate at each update.
        budget: what ends the stage in the place of `steps`: seconds, images or flops (ldm.stage.budget).
        accumulate: micro-batches for each update; the global batch does not change.
        clip: the greatest norm of the gradient of each optimiser's parameters.
        decay: of the average of weights.
        log_every, validate_every, picture_every, save_every: numbers of updates; 0 is never. The end is always saved.
        validate_images: number of held-out images, spread over their set, that a validation uses; the one at the end uses all.
        snapshots: how often, over the run, snapshots of power-function averages are stored, from which an average of any width
            can be rebuilt (ldm.run.snapshots); 0 stores none. They take twice the weights in memory, and about snapshots + 1
            times the weights on the disk.
        patience: number of successive updates without a finite gradient after which the run ends.
        returns: how often the stage, instead of ending so, goes back to its last checkpoint and on with other noise.
        keep_best: the metric of evaluations in training by which the best averaged weights are kept beside the last, of a second
            stage; null keeps none.
        compile: whether to compile the networks (torch.compile).
        again: whether to train the stage anew where the existing one was not made completely with these settings.
    """

    steps: PositiveInt
    optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    rate: Rate
    budget: Budget = field(default_factory=Budget)
    accumulate: PositiveInt = 1
    clip: PositiveFloat = 1.0
    decay: Probability = 0.999
    log_every: PositiveInt = 50
    validate_every: NonNegativeInt = 500
    validate_images: PositiveInt = 1024
    picture_every: NonNegativeInt = 1000
    save_every: NonNegativeInt = 500
    snapshots: NonNegativeInt = 0
    patience: PositiveInt = 20
    returns: NonNegativeInt = 0
    keep_best: str | None = None
    compile: bool = False
    again: bool = False

    def position(self, updates: int, spent: Spent) -> float:
        """How far a stage is after so many updates that have cost so much, in [0, steps]: their number or, with a budget, the
        share of that."""
        return self.steps * min(self.budget.share(spent), 1.0) if self.budget else float(updates)

    def length(self, updates: int, spent: Spent) -> float:
        """The length of the stage in updates, as far as it is known then."""
        position = self.position(updates, spent)
        return updates * self.steps / position if self.budget and position else float(self.steps)

    def limit(self) -> str:
        """What ends the stage, as a record names it: `500 updates`, `120 s`."""
        return str(self.budget) if self.budget else f"{self.steps} updates"

    def standing(self, updates: int, spent: Spent) -> str:
        """How far the stage is, for a log: `250/500`, or `812 updates, 31.2/120 s`."""
        return f"{updates} updates, {self.budget.said(spent)}" if self.budget else f"{updates}/{self.steps}"

    def expected(self, batch_size: int) -> int:
        """The number of updates, as far as it is known before there were any: with a budget of seconds or flops `steps`."""
        return self.steps if self.budget.images is None else -(-self.budget.images // batch_size)

    def course(self, update: int) -> tuple[float, float]:
        """The two values at an update that depend on the length of the run, where no budget limits it: the factor of the
        learning rate and the decay of the average."""
        return self.rate(update, self.steps), WarmUp(self.decay, self.steps).decay(update)


def same_course(one: Recipe, other: Recipe, first: int, stop: int) -> bool:
    """Whether the updates first, ..., stop - 1 are the same under both recipes, if all other fields are equal. Of budgets that is
    not known."""
    if one.budget or other.budget:
        return False
    return all(one.course(update) == other.course(update) for update in range(first, stop))
