"""How long and how a stage is trained; what is trained, and on what loss, is the stage's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ldm.stage.average import WarmUp
from ldm.stage.rate import Rate
from ldm.types import Probability

WATCHING = (
    *("log_every", "validate_every", "validate_images", "picture_every", "save_every", "snapshots", "patience"),
    *("accumulate", "compile", "again"),
)
"""Fields that change nothing of what a stage computes, or no more than its rounding."""


@dataclass(frozen=True)
class Recipe:
    """
    Fields:
        steps: updates of the model in all, whatever the number of players.
        optimizer: waits for parameters; `rate` is the factor of its learning rate at each update.
        accumulate: micro-batches per update; the global batch is the same.
        clip: bound on the norm of each player's gradient.
        decay: of the average of weights.
        log_every, validate_every, picture_every, save_every: in updates, 0 is never; the end is always saved.
        validate_images: held-out images, spread over their set, that a validation looks at; that of the end looks at all.
        snapshots: how many, over the run, of power-function averages, from which an average of any width can be rebuilt
            (ldm.run.snapshots); with 0, none are kept. They take twice the weights in memory and snapshots + 1 times on disk.
        patience: updates in a row without a finite gradient that end the run.
        compile: compile the networks (torch.compile).
        again: make the stage anew where what is there of it was not made wholly under these settings.
        rate: the factor of the learning rate at each update.
    """

    steps: PositiveInt
    optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    rate: Rate
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
    compile: bool = False
    again: bool = False

    def course(self, update: int) -> tuple[float, float]:
        """What depends on the length of a run: the factor of the learning rate and the average's decay at an update."""
        return self.rate(update, self.steps), WarmUp(self.decay, self.steps).decay(update)


def same_course(one: Recipe, other: Recipe, first: int, stop: int) -> bool:
    """Whether the updates first .. stop - 1 are the same under both, other fields being equal."""
    return all(one.course(update) == other.course(update) for update in range(first, stop))
