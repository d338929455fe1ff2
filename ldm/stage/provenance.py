"""Provenance: what a stage was made from, with its history, and whether it may be continued under other settings.

The settings of a stage (ldm.stage.settings) are everything that its updates depend on. The history of a stage is the list of
all settings under which updates were made, each with the number of updates that were made before, and where a stage diverged
and went back, how often it had done so:

    [{"after": 0, "settings": {...}}, {"after": 20, "settings": {...}, "returned": 1}]

What ends a stage is one of its settings: `steps`, or a budget of seconds, images or operations (ldm.stage.budget). Where it was
a clock, the updates that were made are not those that another clock would have made, and settings alone say which numbers
may be averaged.

The history of a new run has one entry. Artifacts in the store and numbers in records carry a hash of the whole history. So 20
updates followed by 20 more are distinguished from 40 updates under one setting, unless they are the same. They are the same
where nothing but `steps`, `rate` and `decay` has changed, and the learning rates and decays of the updates so far are equal
under both settings. Then these updates are those that the new settings would have made, and the entry is replaced.

A stage is continued from its checkpoint under another recipe or precision, with a message that says so. It is not continued
with another network, loss, data set or seed, or with fewer updates than were made already, or under new settings without any
further update. In all of these cases the result would not be what its config says. Then the run is refused, or the stage is
trained anew where its recipe says `again`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ldm.build import build
from ldm.resolve import PACKAGES
from ldm.run.checkpoint import Checkpoints
from ldm.run.store import key_of
from ldm.stage.budget import Spent
from ldm.stage.difference import differences, said
from ldm.stage.recipe import Recipe, same_course
from ldm.stage.settings import FIRST, History, Settings


def limits(first: History, second: History) -> dict[str, str]:
    """What ended the training of each stage that was trained, as `500 updates` or `120 s`, by its name."""
    settings = {"first": first[-1]["settings"], "second": second[-1]["settings"]}
    return {name: build(own[name], name, PACKAGES).limit() for name, own in settings.items() if own.get(name)}


def fresh(settings: Settings) -> History:
    """The history of a stage that was made completely under these settings."""
    return [{"after": 0, "settings": settings}]


def config_hash(*histories: History) -> str:
    """A hash of everything that a model was made from except the seeds. Numbers are averaged over models with the same hash."""
    return key_of([_seedless(history) for history in histories])


def _seedless(history: History) -> History:
    """Without what says which noise was drawn: seeds, and that a stage went back and on with other noise."""
    told: History = []
    for entry in copy.deepcopy(history):
        told = [*told[:-1], told[-1] | {"settings": entry["settings"]}] if "returned" in entry else [*told, entry]
    for entry in told:
        settings = entry["settings"]
        settings.pop("seed", None)
        settings.get("data", {}).pop("seed", None)
        if FIRST in settings:
            settings[FIRST] = _seedless(settings[FIRST]["history"])
    return told


# What is there, and whether it may be continued


@dataclass(frozen=True)
class Begun:
    """What the newest checkpoint of a stage says.

    Fields:
        updates: number of updates that were made.
        history: the history of the stage.
        spent: what they have cost.
        pruned: whether weights and the state of the optimiser were removed from the checkpoint.
    """

    updates: int
    history: History
    pruned: bool = False
    spent: Spent = field(default_factory=Spent)


def begun(checkpoints: Checkpoints) -> Begun | None:
    """What the newest checkpoint says, without reading its tensors; None where there is none that can be read."""
    state = checkpoints.peek()
    if state is None:
        return None
    batch_size = state["history"][-1]["settings"].get("data", {}).get("batch_size", 0)
    return Begun(state["updates"], state["history"], checkpoints.pruned(), Spent.of(state, batch_size))


@dataclass(frozen=True)
class Plan:
    """How a stage is to be trained under its settings.

    Fields:
        updates: number of updates that it continues from; 0 where it begins.
        history: the history of the stage when it is finished.
        changed: settings that differ from those of the existing updates, for a message.
        refused: the reasons for which it may not be continued; empty where it may.
        anew: whether what is there has to be removed.
        finished: whether nothing is left to be done.
    """

    updates: int
    history: History
    changed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    anew: bool = False
    finished: bool = False

    def again(self) -> Plan:
        """The same plan, or a new beginning where what is there was not made completely under the last settings."""
        last = self.history[-1]["settings"]
        if not self.refused and all(entry["settings"] == last for entry in self.history):
            return self
        return Plan(0, fresh(self.history[-1]["settings"]), anew=True)


def plan(stage: str, there: Begun | None, settings: Settings) -> Plan:
    """How the stage `first` or `second` is to be trained under `settings`, given what is there."""
    if there is None or there.updates == 0:
        return Plan(0, fresh(settings))
    before, steps = there.history[-1]["settings"], (settings.get(stage) or {}).get("steps")
    if steps is None:
        return Plan(there.updates, fresh(settings), refused=_given_instead(stage, before, settings))
    history = going_on(there.history, there.updates, settings, stage)
    recipe: Recipe = build(settings[stage], stage, PACKAGES)
    if there.updates > steps and not recipe.budget:
        return Plan(there.updates, history, refused=(f"{stage}.steps={steps} ({there.updates} updates are done)",))
    finished = recipe.position(there.updates, there.spent) >= recipe.steps
    own = [] if len(history) == len(there.history) else list(_changed(before, settings))
    refused = said([each for each in own if not _may_change(each[0], stage)])
    changed = said([each for each in own if _may_change(each[0], stage)])
    if changed and finished:
        refused, changed = refused + changed, ()
    if there.pruned and not finished:
        more = f"{stage}.steps={steps}" if not recipe.budget else f"{stage}.budget of {recipe.budget}"
        kept = f"{more} (finished with {there.updates} and keep=model, which left no checkpoint to go on from)"
        refused, changed = (kept, *refused), ()
    refused += said(list(_changed_first(before, settings)))
    return Plan(there.updates, history, changed, refused, finished=finished)


def _given_instead(stage: str, before: Settings, settings: Settings) -> tuple[str, ...]:
    """The reasons against settings without training for a stage that was trained here already."""
    given = [each for each in _changed(before, settings) if each[2] is not None]
    return said(given) or (f"stage@{stage}=none",)


def going_on(history: History, updates: int, settings: Settings, stage: str) -> History:
    """The history of a stage that is continued after `updates` updates under `settings`."""
    last = history[-1]
    if _same(last, updates, settings, stage):
        return [*history[:-1], last | {"settings": settings}]
    return [*history, {"after": updates, "settings": settings}]


def gone_back(history: History, updates: int, returned: int) -> History:
    """The history of a stage that diverged and goes on after `updates` updates with other noise, for the `returned`th time."""
    return [*history, {"after": updates, "settings": history[-1]["settings"], "returned": returned}]


def returns(history: History) -> int:
    """How often a stage of this history has gone back."""
    return max((entry.get("returned", 0) for entry in history), default=0)


def _same(last: dict[str, Any], updates: int, settings: Settings, stage: str) -> bool:
    """Whether the updates under the last entry of a history equal those that `settings` would have made."""
    keys = {key for key, _, _ in _changed(last["settings"], settings)}
    if not keys:
        return True
    course = {f"{stage}.{name}" for name in ("steps", "rate", "decay")}
    if not all(_below(key, course) for key in keys):
        return False
    before, now = (build(each[stage], stage, PACKAGES) for each in (last["settings"], settings))
    return same_course(before, now, last["after"], updates)


def _changed(old: Settings, new: Settings) -> Iterator[tuple[str, Any, Any]]:
    """The differences of two settings, except for those of the first stage."""
    old, new = ({name: value for name, value in each.items() if name != FIRST} for each in (old, new))
    return differences(old, new)


def _changed_first(old: Settings, new: Settings) -> Iterator[tuple[str, Any, Any]]:
    """The differences of the first stages in two settings of a second stage."""
    first, other = old.get(FIRST), new.get(FIRST)
    if not first or not other:
        return
    if first["history"] != other["history"]:
        own = list(differences(first["history"][-1]["settings"], other["history"][-1]["settings"]))
        yield from own or [("first", "in other parts", "in parts")]
    elif None not in (first["weights"], other["weights"]) and first["weights"] != other["weights"]:
        yield "first stage", first["weights"], other["weights"]


def _may_change(key: str, stage: str) -> bool:
    return _below(key, {stage, "trainer", "cache_latents", "callback", "data.workers"})


def _below(key: str, places: set[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
