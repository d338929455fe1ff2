"""Provenance: what a stage was made from, with its history, and whether it may be continued under other settings.

The settings of a stage are everything that its updates depend on, by value: parts, loss, recipe, precision, seed, and what
identifies the training images and their order. The history of a stage is the list of all settings under which updates were
made, each with the number of updates that were made before, and where a stage diverged and went back, how often it had done so:

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
from pathlib import Path
from typing import Any

from ldm.build import PACKAGES, Config, build, resolve
from ldm.data.module import DataModule
from ldm.files import checksum
from ldm.run.checkpoint import Checkpoints
from ldm.run.store import key_of
from ldm.stage.budget import Spent
from ldm.stage.recipe import WATCHING, Recipe, same_course

Settings = dict[str, Any]
History = list[dict[str, Any]]

_FIRST = "first stage"
_OTHER_DATA = "data.train: other images, labels or captions"
_SHOWN = 5
# Callbacks of Lightning that do not change what a stage computes; others may.
_WATCHERS = {
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "Timer", "EarlyStopping", "ModelCheckpoint"),
    *("OnExceptionCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"),
}


# Settings


def of_data(data: DataModule) -> Settings:
    """The settings that decide the training batches. A data set is identified by its content, wherever it lies."""
    own, source = data.transform, data.sources["train"]
    return {
        "train": source.fingerprint,
        "image_shape": list(data.image_shape),
        **{"crop": own.crop, "flip": own.flip, "max_pixels": own.max_pixels, "max_bytes": own.max_bytes},
        **{"batch_size": data.batch_size, "seed": data.seed, "on_error": data.on_error},
        **({} if source.stream is None else {"workers": data.workers}),  # each reads a part of the stream
    }


def of_first(config: Config, data: DataModule, begun_from: str | None = None) -> Settings:
    """The settings that the updates of a first stage depend on.

    Arguments:
        config: of the run.
        data: of the run.
        begun_from: the hash of the weights that it begins from; None where they are drawn at random.
    """
    parts = {part: config[part] for part in ("autoencoder", "loss", "seed")}
    if begun_from is not None:
        parts["autoencoder"] = parts["autoencoder"] | {"checkpoint": begun_from}
    return _plain(parts | _training(config, "first") | {"data": of_data(data)})


def of_second(
    config: Config, data: DataModule, first: History, weights: str | None, begun_from: Settings | None = None
) -> Settings:
    """The settings that the updates of a second stage depend on.

    Arguments:
        config: of the run.
        data: of the run.
        first: the history of the first stage.
        weights: the hash of the first stage's weights; None where it is not trained yet.
        begun_from: the weights that it begins from (ldm.stage.finetune); None where they are drawn at random.
    """
    prior = of_prior(config["prior"]) | (begun_from or {})
    parts = {part: config.get(part) for part in ("condition", "alignment", "seed", "cache_latents")}
    settings = parts | {"prior": prior, "data": of_data(data), _FIRST: {"history": first, "weights": weights}}
    return _plain(settings | _training(config, "second"))


def of_prior(node: Config) -> Settings:
    """The words of a prior's node that its updates depend on: not how samples are drawn nor densities found."""
    after = {*resolve(node["_target_"], "prior").DRAWING, "likelihood"}
    return {name: value for name, value in node.items() if name not in after}


def _training(config: Config, stage: str) -> Settings:
    recipe = {name: value for name, value in (config.get(stage) or {}).items() if name not in WATCHING}
    if not any(value for name, value in (recipe.get("budget") or {}).items() if name != "_target_"):
        recipe.pop("budget", None)  # none, as of a run that was begun before there were any
    callback = {name: node for name, node in (config.get("callback") or {}).items() if not _watches(node["_target_"])}
    along = {"callback": callback} if callback else {}
    return {stage: recipe, "trainer": {"precision": config["trainer"].get("precision")}, **along}


def _watches(target: str) -> bool:
    return target.startswith("lightning.pytorch.callbacks.") and target.rpartition(".")[2] in _WATCHERS


def _plain(value: Any) -> Any:
    """A value with lists in place of tuples, so that it is equal after it was written and read, and with hashes of files in
    place of their paths."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return f"content {_content(Path(value))}"
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _content(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return key_of([[file.relative_to(path).as_posix(), checksum(file)] for file in files])


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
        if _FIRST in settings:
            settings[_FIRST] = _seedless(settings[_FIRST]["history"])
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
    old, new = ({name: value for name, value in each.items() if name != _FIRST} for each in (old, new))
    return differences(old, new)


def _changed_first(old: Settings, new: Settings) -> Iterator[tuple[str, Any, Any]]:
    """The differences of the first stages in two settings of a second stage."""
    first, other = old.get(_FIRST), new.get(_FIRST)
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


def said(changed: list[tuple[str, Any, Any]], below: str = "") -> tuple[str, ...]:
    """Each change as a text. Settings that do not exist any more are left out where there are other changes, as those of
    another class are."""
    there = [each for each in changed if each[2] is not None] or changed
    return tuple(
        _OTHER_DATA if key == "data.train" else f"{below}{key}={now} (was {before})" for key, before, now in there
    )


def shown(reasons: tuple[str, ...]) -> str:
    """The first reasons in one line, and the number of the others."""
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return "; ".join(reasons[:_SHOWN]) + more


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every value that differs between two nested configs; None for a value that one of
    them does not have. An empty node counts as None, as that of a group that an older run did not have."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new and not (old in (None, {}) and new in (None, {})):
        yield key, old, new
