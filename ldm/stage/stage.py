"""The training code, once, for one player or two: setting up, logging, validation, checkpoints, stops. An update itself is
ldm.stage.update.

A stage does `steps` updates, or as many as its budget allows (ldm.stage.budget). Update k is a function of the weights before it
and of (seed, k) alone: its batch comes from a position-addressed sampler, its noise from `ldm.random`, its learning rate from
`rate`. The number of updates done is therefore the only position, and with a budget what they have cost, which a checkpoint holds
too. So a stage that goes on from a checkpoint computes what an uninterrupted one would have, by the same clock.

Lightning carries devices, precision, DDP and sharding. Its own counters, checkpoints and logs are not used: with two
optimisers its global step counts twice, and its resume loses the position within an epoch.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.logger.sink import Sink
from ldm.model import put_weights
from ldm.random import Random
from ldm.ranks import agree
from ldm.run.checkpoint import Checkpoints, to_device
from ldm.run.directory import Journal
from ldm.run.signals import Diverged, StopFlag
from ldm.run.snapshots import Snapshots
from ldm.stage.best import Best
from ldm.stage.budget import Spent
from ldm.stage.provenance import fresh, going_on, gone_back
from ldm.stage.recipe import Recipe
from ldm.stage.settings import History, Settings
from ldm.stage.sharding import FullyShard, as_sharded, blocks, gathered, shard
from ldm.stage.update import Learner
from ldm.stage.validation import validate

log = logging.getLogger(__name__)


_KEPT = "the last checkpoint is whole: lower the learning rate and start again, or look at the data"


def _finite(weights: list[dict[str, Tensor]]) -> bool:
    """Whether every number is finite; one wait for the device."""
    tensors = [value for named in weights for value in named.values() if value.is_floating_point() and value.numel()]
    return not tensors or bool(
        torch.stack(torch._foreach_norm([t.detach() for t in tensors], float("inf"))).isfinite().all()
    )


class Stage(Learner):
    """One training: so many updates of its players. A new one writes `players`, `averaged`, `trained`, `to_compile` and
    `validation_terms`."""

    def __init__(self, recipe: Recipe, seed: int = 0):
        super().__init__(recipe, seed)
        self.stopped = False  # by a signal or a callback, before all updates were done
        self.best: Best | None = None
        self._saved = 0  # the update of the last checkpoint
        self.latest: dict[str, float] = {}
        self.history: History = fresh({})  # the settings under which its updates were made

    # What a stage is

    @abstractmethod
    def averaged(self) -> nn.Module:
        """The module whose weights are averaged, checkpointed and in the end kept."""

    @abstractmethod
    def to_compile(self) -> list[nn.Module]:
        """The networks that `compile` compiles, in place, so that their keys stay."""

    @abstractmethod
    def validation_terms(self, batch: dict[str, Any], random: Random) -> dict[str, Tensor]:
        """name -> (b,) values of one held-out batch at fixed noise; averaged over the set."""

    def to_shard(self) -> list[nn.Module]:
        """The networks that learn and are large, each called by its forward pass; none where ranks keep this stage whole."""
        return []

    # Where it stands

    def attach(
        self,
        checkpoints: Checkpoints,
        snapshots: Snapshots,
        journal: Journal,
        stop: StopFlag,
        sinks: Sequence[Sink] = (),
        settings: Settings | None = None,
    ) -> None:
        """Give the stage its places in a run, and what its updates depend on; without, it trains and leaves nothing."""
        self.checkpoints, self.snapshots, self.journal = checkpoints, snapshots, journal
        self.stop, self.sinks, self.history = stop, list(sinks), fresh(settings or {})

    checkpoints: Checkpoints | None = None
    snapshots: Snapshots | None = None
    journal: Journal | None = None
    stop: StopFlag | None = None
    sinks: Sequence[Sink] = ()

    # Setting up, in Lightning's order

    @property
    def sharded(self) -> bool:
        """Whether each rank keeps a part of every weight, so that all have to be there for each forward pass."""
        return isinstance(self.trainer.strategy, FullyShard)

    def configure_model(self) -> None:
        if self.sharded:
            shard(self.to_shard(), self.trained(), self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        # Lightning would take SIGTERM, end with exit code 0 and nothing saved, and ask at every step by a broadcast and a
        # wait for the device whether it came. `StopFlag` does this.
        self.trainer._signal_connector.register_signal_handlers = lambda: None
        self.trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if found is None:
            self.begin()
        self.begin_averages(self.averaged())
        self._resume(found)
        if self.checkpoints is not None:
            agree(lambda: self.checkpoints.check_room(self.state()))
        if self.stop is not None:
            self.stop.install()  # again, where a library has taken a signal since
        if self.recipe.compile:
            for network in self.to_compile():
                for module in blocks(network) if self.sharded else [network]:
                    module.compile()
        self.trained().train()
        self.clock.begin()

    def begin(self) -> None:
        """Take from data what has to be there before update 0 and before averages copy the weights."""
        return

    def _resume(self, found: tuple[int, dict[str, Any]] | None) -> None:
        step = 0 if found is None else found[0]
        if found is not None:
            self._saved = step
            # Where it is sharded the whole of it may not fit on a device.
            self.load_state(found[1] if self.sharded else to_device(found[1], self.device))
            self.history = going_on(found[1]["history"], step, self.history[-1]["settings"], self.name)
            if self.returned > found[1].get("returned", 0):
                self.history = gone_back(self.history, step, self.returned)
            self._count()
            log.info("%s stage goes on after update %d (of %s)", self.name, step, self.recipe.limit())
        if self.global_rank == 0:  # also of what was killed before its first checkpoint
            if self.journal is not None:
                self.journal.rewind(self.name, step)
            if self.snapshots is not None and self.powers.averages:
                self.snapshots.rewind(step)
                self.snapshots.describe(self.history)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; raw weights and averages all."""
        scaler = self._scaler()
        return {
            "updates": self.updates,
            "returned": self.returned,
            "history": self.history,
            "seconds": self.clock.seconds,
            **({"spent": dataclasses.asdict(self.spent)} if self.recipe.budget else {}),
            "flops": self.flops.state_dict(),
            "weights": dict(self.trained().state_dict()),
            "average": self.average.state_dict(),
            "powers": self.powers.state_dict(),
            "optimizers": {player.name: player.built.state_dict() for player in self._players},
            "scaler": None if scaler is None else scaler.state_dict(),
            "skipped": self._skipped,
            "means": self._means.state_dict(),
            **({} if self.best is None else {"best": self.best.state_dict()}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave; ValueError where its weights are of another network."""
        self.updates, self.clock.seconds = state["updates"], state["seconds"]
        self.flops.load_state_dict(state.get("flops", {}))
        self.spent = Spent.of(state, self.trainer.datamodule.data.batch_size)
        self.clock.cpu_seconds = self.spent.cpu_seconds
        self.returned = max(self.returned, state.get("returned", 0))
        own = self.trained().state_dict()
        weights = {name: as_sharded(value, own.get(name, value)) for name, value in state["weights"].items()}
        put_weights(self.trained(), weights, f"the checkpoint of update {state['updates']}")
        self.average.load_state_dict(state["average"])
        self.powers.load_state_dict(state.get("powers", {}))
        for player in self._players:
            player.load_state_dict(state["optimizers"][player.name])
        scaler = self._scaler()
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        self._skipped = state["skipped"].to(self.device)
        self._means.load_state_dict(to_device(state["means"], self.device))
        if self.best is not None:
            self.best.load_state_dict(state.get("best", {}))

    @abstractmethod
    def trained(self) -> nn.Module:
        """Everything with learnt state: `averaged()` and, in a game, the other side."""

    # Between updates

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], index: int) -> None:
        if (index + 1) % self.accumulate:
            return
        done = self.done
        if self.updates % self.recipe.log_every == 0 or done:
            self._flush(batch["total"])
        if self.recipe.validate_every and (self.updates % self.recipe.validate_every == 0 or done):
            self.validate(batch["total"], None if done else self.recipe.validate_images)
        if self.powers.due(self.position, self._before):
            self._snapshot()  # before a checkpoint, so that none before it is missing
        ended = self.trainer.should_stop  # by a callback
        asked = ended if self.stop is None else self.stop.agreed(ended)
        if asked or done or (self.recipe.save_every and self.updates % self.recipe.save_every == 0):
            self.save()
        self._whole = True
        if asked and not done:
            self.stopped = self.trainer.should_stop = True
        if done:
            self.trainer.should_stop = True  # of a budget the loader does not know the end

    def save(self) -> None:
        """A checkpoint of this update; Diverged, and none, where a weight is not finite."""
        self.clock.tick()
        state = gathered(self.state(), keep=self.global_rank == 0)
        if self.checkpoints is not None and self.global_rank == 0:
            if not _finite([state["weights"], state["average"]["weights"]]):
                raise Diverged(f"{self.name} stage: update {self.updates} has weights that are not finite; {_KEPT}")
            self.checkpoints.save(self.updates, state)
        self._saved = self.updates
        self.clock.go_on()

    def rescue(self) -> None:
        """Save what was done since the last checkpoint: at the end of a fit, nothing, unless something else than an update
        has failed (a data worker was killed, the disk of the data is gone). Half an update is not saved, nor is what is
        sharded: the other ranks would have to be there."""
        if self._whole and self._saved < self.updates and not self.sharded:
            log.info("%s stage: saving update %d before ending", self.name, self.updates)
            self.save()

    def go_back(self) -> bool:
        """After a fit that diverged: whether another one is to go on from the last checkpoint, with other noise."""
        if self.returned >= self.recipe.returns or self.checkpoints is None or not self.checkpoints.steps():
            return False
        self.returned += 1
        log.warning(
            "%s stage diverged at update %d and goes back to update %d, with other noise (%d of %d times)",
            *(self.name, self.updates, self.checkpoints.steps()[-1], self.returned, self.recipe.returns),
        )
        return True

    def _snapshot(self) -> None:
        self.clock.tick()
        for width, average in self.powers.averages.items():
            weights = gathered(average.named(), keep=self.global_rank == 0)
            if self.snapshots is not None and self.global_rank == 0:
                self.snapshots.save(self.updates, width, weights, last=self.done)
        self.clock.go_on()

    # Logging

    def _flush(self, total: int) -> None:
        """Publish the means since the last flush."""
        updates = self._means.updates
        means, (skipped, in_a_row) = self._means.take(self._skipped)
        passed, waiting = self.clock.lap()
        self.latest = means | {"skipped": skipped, "rate": self._players[0].built.param_groups[0]["lr"]}
        pace = {"images_per_second": updates * total / passed, "wait": waiting}
        returned = {"returned": float(self.returned)} if self.returned else {}
        self.publish(total, {**self.latest, **pace, **returned})
        self.latest |= pace
        if in_a_row >= self.recipe.patience:
            raise Diverged(
                f"{self.name} stage: {int(in_a_row)} updates in a row up to {self.updates} had a gradient that is not "
                f"finite; {_KEPT}"
            )

    def publish(self, total: int, values: dict[str, float]) -> None:
        """To callbacks and, against images seen, to the journal and every logger."""
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        if self.global_rank != 0:
            return
        images = self.updates * total
        if self.journal is not None:
            self.journal.write(self.name, self.updates, images, self.clock.seconds, values, self.flops.total)
        for sink in self.sinks:
            sink.scalars(self.name, images, values)

    def validate(self, total: int, images: int | None = None) -> dict[str, float]:
        """Measure and publish the means over so many held-out images, or all (ldm.stage.validation)."""
        self.clock.tick()
        for callback in self.trainer.callbacks:
            callback.on_validation_start(self.trainer, self)
        results = validate(self, images)
        self.publish(total, results)
        self.latest |= results
        for callback in self.trainer.callbacks:
            callback.on_validation_end(self.trainer, self)
        self.clock.go_on()
        return results
