"""One update of a stage: from its held micro-batches to the averages of its weights.

Update k moves each player by the gradient of its loss over the global batch. Micro-batches and ranks are parts of that batch:
losses are means over a part, divided by the number of parts, and gradients are synchronised with the last. Its random numbers are
a function of (seed, k), its learning rate one of the recipe's, so it is the same update in whatever process it is made.

An update with a gradient that is not finite moves nothing of that player and is counted, on the device, in all and in a row.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from ldm.random import Random, seed_of
from ldm.resolve import ConfigError
from ldm.stage.average import Average, Powers, WarmUp
from ldm.stage.budget import Spent
from ldm.stage.clock import Clock
from ldm.stage.flops import Flops, metered
from ldm.stage.means import Means
from ldm.stage.player import Player, alone
from ldm.stage.recipe import Recipe

_NEVER = 2**40  # an update
_SOON = 0.95  # share of a budget of seconds after which the host waits for the device before it asks for the time


class Learner(L.LightningModule, ABC):
    """Makes the updates of its players, as Lightning hands it micro-batches. A stage (ldm.stage.stage) is one, with all that
    happens between updates.

    Attributes:
        name: `first` or `second`, as words, files and curves call it.
        updates: how many are done.
        spent: what they have cost, by which its progress is judged.
        returned: how often it has gone back to a checkpoint, after it had diverged.
    """

    name: str

    def __init__(self, recipe: Recipe, seed: int = 0):
        super().__init__()
        self.automatic_optimization = False
        self.recipe, self.seed = recipe, seed
        self.steps, self.accumulate = recipe.steps, recipe.accumulate
        self.updates = self.returned = 0
        self.clock, self.flops, self.spent = Clock(), Flops(), Spent()
        self._before = 0.0  # the position before the last update
        self._whole = False  # between two updates
        self._held: list[dict[str, Any]] = []  # micro-batches of the update under way that wait for its last

    @abstractmethod
    def players(self) -> list[Player]:
        """Who plays; their parameters are disjoint."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self._players = self.players()
        return [player.build() for player in self._players]

    def begin_averages(self, averaged: nn.Module) -> None:
        """Set up what updates add to beside weights: averages of those of `averaged`, means of numbers, counts of what was
        skipped."""
        self._warm_up = WarmUp(self.recipe.decay, self.steps)
        self.average = Average(averaged, self._warm_up)
        self.powers = Powers(averaged, self.recipe.snapshots, self.steps)
        self._skipped = torch.zeros(2, device=self.device)  # in all, in a row
        self._means = Means()

    @property
    def position(self) -> float:
        """How far the training is, in [0, steps]; one notion for all that depends on its length (ldm.stage.budget)."""
        return self.recipe.position(self.updates, self.spent)

    @property
    def done(self) -> bool:
        """Whether it is at its end."""
        return self.position >= self.steps

    @property
    def reads_to(self) -> int:
        """The update that data are to be read to: the last or, where a budget ends it, one that is never reached."""
        return self.updates if self.done else _NEVER if self.recipe.budget else self.steps

    def training_step(self, batch: dict[str, Any], index: int) -> dict[str, Tensor]:
        """One micro-batch of an update, or all of them with the last where they are prepared together; what the players lost in
        it, for callbacks."""
        self._whole, before, position = False, self.updates, self.position
        told = self._micro_batch(batch, index)
        if self.updates > before:
            self._before = position
            self._spend(batch["total"])
        return told

    def _spend(self, images: int) -> None:
        """Count what an update of so many images has cost."""
        budget = self.recipe.budget
        if budget.timed:
            if self.device.type == "cuda" and budget.share(self.spent) > _SOON:
                torch.cuda.synchronize(self.device)
            self.clock.agree()
        if budget.flops is not None and not self.flops.total:
            raise ConfigError(
                f"{self.name}.budget.flops: torch counts no operation in an update here; take {self.name}.budget.seconds "
                f"or .images"
            )
        cpu_seconds = 0.0 if budget.cpu_seconds is None else self.clock.cpu_seconds
        self.spent = Spent(self.updates * images, self.clock.seconds, float(self.flops.total or 0), cpu_seconds)

    @metered
    def _micro_batch(self, batch: dict[str, Any], index: int) -> dict[str, Tensor]:
        part = index % self.accumulate
        if not self.prepares:
            return self._part(batch, part, {})
        self._held = [*self._held[:part], batch]
        if part + 1 < self.accumulate:
            return {}
        held, self._held = self._held, []
        self._seed(batch, 0)
        told = [
            self._part(each, k, shared) for k, (each, shared) in enumerate(zip(held, self.prepare(held), strict=True))
        ]
        return told[-1]

    @property
    def prepares(self) -> bool:
        """Whether the micro-batches of an update are held until the last has come, and then prepared together."""
        return False

    def prepare(self, held: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What players share of each micro-batch of an update before any of them learns."""
        return [{} for _ in held]

    def random(self, batch: dict[str, Any]) -> Random:
        """The random numbers of a training batch."""
        return Random(self._key(), batch["step"], batch["row"], batch["total"])

    def _seed(self, batch: dict[str, Any], part: int) -> None:
        """For what draws from torch's own generator, as dropout does."""
        torch.manual_seed(seed_of(self._key(), batch["step"], part, self.global_rank))

    def _part(self, batch: dict[str, Any], part: int, shared: dict[str, Any]) -> dict[str, Tensor]:
        last, random = part + 1 == self.accumulate, self.random(batch)
        if part == 0:
            factor = self.recipe.rate(self.position, self.steps)
            for player in self._players:
                player.set_rate(factor)
        self._seed(batch, part)
        moved, told = [], {}  # players; their losses by name
        for player in self._players:
            with alone(player, self._players), contextlib.nullcontext() if last else self._unsynchronised():
                terms, values = player.loss(batch, random, shared)
                if not terms:
                    continue
                total = sum(terms.values())
                self.manual_backward(total / self.accumulate)
            name = "loss" if player is self._players[0] else f"{player.name} loss"
            self._means.add({**terms, **values, name: total}, 1 / self.accumulate)
            moved.append(player)
            told[name] = total.detach()
        if last:
            self._update(moved)
        return told

    def _unsynchronised(self) -> contextlib.AbstractContextManager:
        """Gradients of a micro-batch that is not the last stay on their rank."""
        return self.trainer.strategy.block_backward_sync() if self.trainer.world_size > 1 else contextlib.nullcontext()

    def _key(self) -> int:
        again = () if self.returned == 0 else (self.returned,)  # with other noise than that under which it diverged
        return seed_of(self.seed, self.name, *again)

    def _update(self, moved: list[Player]) -> None:
        scaler = self._scaler()
        finite = torch.ones((), device=self.device)
        for player in moved:
            norm = player.step(self.recipe.clip, scaler)
            ok = torch.isfinite(norm)
            finite = finite * ok
            self._means.add({f"{player.name} gradient": norm})
        if scaler is not None:
            scaler.update()
        self._means.add(self.conclude())
        self._warm_up.steps = self.recipe.length(self.updates, self.spent)
        self.average.update()
        self.powers.update()
        bad = 1 - finite
        self._skipped = torch.stack([self._skipped[0] + bad, (self._skipped[1] + bad) * bad])
        self.updates += 1
        self._count()
        self._means.end_update()

    def conclude(self) -> dict[str, Tensor]:
        """What an update does on the whole of its batch once its players have moved; numbers of it to log."""
        return {}

    def _count(self) -> None:
        """Let `trainer.global_step`, which callbacks read, be the number of updates."""
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = self.updates

    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)
