"""A finished run's model, as it is or drawing its samples otherwise.

How samples are drawn (`Prior.DRAWING`: of a diffusion its sampler, grid, guidance, steps and the schedule that samples follow)
plays no part in training, so a finished run takes others by the words that training takes. A node stands in the
place of the run's own; a mapping without `_target_` changes single arguments of it. The model's `config` says in the end how
it samples, for records (ldm.run.evaluation).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ldm.build import Config, is_node, merged, signature_of
from ldm.files import read_text
from ldm.model import MODEL_PACKAGES, LatentModel, Weights
from ldm.nearest import nearest
from ldm.prior.base import Prior
from ldm.resolve import resolve
from ldm.run.directory import RunDirectory
from ldm.run.guide import guided
from ldm.run.snapshots import Snapshots
from ldm.tensors import hash_of

PIECES = {"schedule": "sampling_schedule", "sampler": "sampler", "grid": "grid", "guidance": "guidance"}
"""The pieces of diffusion/ that a command line may name, and the arguments of a prior that they are."""


def load(run: str | Path, weights: Weights, ema: float | None, device: torch.device) -> LatentModel:
    """The model of a finished run; with `ema`, the weights averaged by that relative width (ldm.run.snapshots)."""
    model = LatentModel.load(run, weights, device)
    if ema is None:
        return model
    if weights != "average":
        raise ValueError(f"ema={ema:g} is of averaged weights and weights={weights}; leave one of the two out")
    snapshots = Snapshots(RunDirectory(Path(run)).snapshots / "second")
    if snapshots.files() and snapshots.history() != model.made_from.get("second"):
        raise ValueError(
            f"the snapshots of {run} are not of the training that made its model/: that command goes on with a longer or a "
            "new one. Finish it, by the words that it was begun with"
        )
    # The second stage's names are the model's: its parts have the same names in both.
    own = snapshots.rebuild(ema)
    strange = model.load_state_dict(own, strict=False).unexpected_keys
    if strange:
        raise ValueError(f"the snapshots of {run} are of another model: it has no {', '.join(strange[:5])}")
    return model


def settings_of(run: str | Path) -> Config:
    """The config of the run whose directory, or its `model/`, is named; empty where it is not there."""
    for folder in (Path(run), Path(run).parent):
        if (folder / "config.yaml").exists():
            return yaml.safe_load(read_text(folder / "config.yaml"))
    return {}


def named(weights: Weights, ema: float | None, model: LatentModel | None = None) -> str:
    """The weights of `load`, as a record names them; the best ones by what the model says of them."""
    if weights == "best" and model is not None:
        return f"best:{model.made_from['best']['metric']}"
    if ema is not None:
        return f"averaged:{ema:g}"
    return "averaged" if weights == "average" else "raw"


def is_trained(model: LatentModel, run: str | Path) -> bool:
    """Whether a prior has no weights that were never trained."""
    return settings_of(run).get("second", True) not in (None, {}) or not any(True for _ in model.prior.parameters())


def check_trained(model: LatentModel, run: str | Path) -> None:
    """ValueError where a prior has weights that were never trained."""
    if not is_trained(model, run):
        raise ValueError(
            f"{run} is a first stage alone, its prior was not trained (stage@second=none): train one with "
            f"autoencoder.checkpoint={run}"
        )


def weights_hash(model: LatentModel) -> str:
    """Of all that an image is computed from, a guide's weights too."""
    state, own = model.state_dict(), set(model.modules())
    for network in model.prior.networks():
        if network not in own:
            state |= {f"guide {name}": value for name, value in network.state_dict().items()}
    return hash_of(state)


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn, as a command line says it; None is as in the run.

    Fields:
        diffusion: nodes, or some of their arguments, by the name of the piece: schedule, sampler, grid, guidance.
        guidance: scale of the innermost guidance that has one.
        steps: of the sampler.
        prior: any other of what the prior says of its sampling (`Prior.DRAWING`), by name.
        guide: a run, whose model autoguidance moves away from.
        guide_ema: relative width of the guide's average; without `guide`, the run itself is the guide.
    """

    diffusion: Mapping[str, Any] | None = None
    guidance: float | int | None = None
    steps: int | None = None
    prior: Mapping[str, Any] | None = None
    guide: str | None = None
    guide_ema: float | None = None

    def facts(self) -> Config:
        """What is asked for, as plain data; empty where nothing is."""
        asked = vars(self) | {"diffusion": self._pieces()}
        return {name: value for name, value in asked.items() if value not in (None, {})}

    def _pieces(self) -> Config:
        return {name: node for name, node in (self.diffusion or {}).items() if node is not None}

    def guide_named(self, run: str) -> str | None:
        """The guide as a record names it: its run and its weights."""
        if self.guide is None and self.guide_ema is None:
            return None
        return f"{RunDirectory(Path(self.guide or run)).path.resolve().name}, {named('average', self.guide_ema)}"

    def load(self, run: str, weights: Weights, ema: float | None, device: torch.device) -> LatentModel:
        """The run's model, which samples so; ValueError says by name what does not fit."""
        model, other = load(run, weights, ema, device), None
        if self.guide is not None or self.guide_ema is not None:
            other = load(self.guide or run, "average", self.guide_ema, device)
        self.put(model, other)
        return model

    def put(self, model: LatentModel, guide: LatentModel | None = None) -> None:
        """Let a model sample so, away from `guide`."""
        own = model.config["prior"]
        words = self._words(model.prior, own)
        if words:
            model.config = model.config | {"prior": model.prior.redrawn(own, words, MODEL_PACKAGES)}
        if self.facts():
            guided(model, guide)
            model.check_null()

    @contextmanager
    def applied(self, model: LatentModel) -> Iterator[None]:
        """Let a model sample so for the time of a block."""
        before, config = {name: getattr(model.prior, name) for name in model.prior.DRAWING}, model.config
        try:
            self.put(model)
            yield
        finally:
            model.config = config
            for name, value in before.items():
                setattr(model.prior, name, value)

    def _words(self, prior: Prior, own: Config) -> Config:
        """What is asked for by the names of the prior's own arguments; ValueError where it has none of that name."""
        words = dict(self.prior or {})
        for name, node in self._pieces().items():
            if name not in PIECES:
                raise ValueError(
                    f"diffusion/{name} is not of sampling{nearest(name, list(PIECES), 'A finished run takes another')}"
                )
            place = _known(prior, PIECES[name], f"diffusion/{name}")
            words[place] = copy.deepcopy(merged(own.get(place) or own[name], node))
        if words.get("sampling_schedule") == own.get("schedule", {}):
            words["sampling_schedule"] = None
        if self.guidance is not None:
            place = _known(prior, "guidance", "guidance")
            words[place] = _with_scale(copy.deepcopy(words.get(place, own.get(place))), self.guidance)
        if self.steps is not None:
            words[_known(prior, "steps", "steps")] = self.steps
        return words


def _known(prior: Prior, name: str, word: str) -> str:
    if name not in prior.DRAWING:
        ways = ", ".join(f"prior.{each}=" for each in prior.DRAWING) or "nothing that could be changed"
        raise ValueError(f"{word}= is not of this run's prior, {type(prior).__name__}: its samples are drawn by {ways}")
    return name


def _with_scale(guidance: Any, scale: float | int) -> Any:
    """A guidance of this scale: the innermost node that has one, or the number itself."""
    if not is_node(guidance):
        return scale
    scaled(guidance)["scale"] = scale
    return guidance


def scaled(guidance: Config) -> Config:
    """The innermost node of a guidance that takes a scale; ValueError where there is none."""
    chain = [guidance]
    while is_node(chain[-1].get("guidance")):
        chain.append(chain[-1]["guidance"])
    for node in reversed(chain):
        if "scale" in signature_of(resolve(node["_target_"], "guidance", MODEL_PACKAGES)).parameters:
            return node
    raise ValueError(f"guidance= is a scale, and {chain[-1]['_target_']} has none")
