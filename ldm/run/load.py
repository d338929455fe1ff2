"""A finished run's model, as it is or with other pieces of how it samples.

Sampler, grid, guidance, steps and the schedule that samples follow play no part in training, so a finished run takes any of
them by the words that training takes. A node stands in the place of the run's own; a mapping without `_target_` changes
single arguments of it. The model's `config` says in the end how it samples, for records (ldm.run.evaluation).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ldm.build import Config, build, check, is_node, nearest, resolve
from ldm.diffusion.denoiser import Denoiser, NetworkDenoiser, Rescheduled
from ldm.diffusion.guidance.autoguidance import Guide, Paired, waits_for_guide, with_guide
from ldm.files import read_text
from ldm.model import MODEL_PACKAGES, LatentModel, Weights
from ldm.prior.diffusion import Diffusion
from ldm.run.directory import RunDirectory
from ldm.run.snapshots import Snapshots

PIECES = ("schedule", "sampler", "grid", "guidance")


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


def named(weights: Weights, ema: float | None) -> str:
    """The weights of `load`, as a record names them."""
    if ema is not None:
        return f"averaged:{ema:g}"
    return "averaged" if weights == "average" else "raw"


@dataclass(frozen=True)
class Changes:
    """How samples are drawn, as a command line says it; None is as in the run.

    Fields:
        diffusion: nodes, or some of their arguments, by the name of the piece: schedule, sampler, grid, guidance.
        guidance: scale of the innermost guidance that has one.
        steps: of the sampler.
        guide: a run, whose model autoguidance moves away from.
        guide_ema: relative width of the guide's average; without `guide`, the run itself is the guide.
    """

    diffusion: Mapping[str, Any] | None = None
    guidance: float | int | None = None
    steps: int | None = None
    guide: str | None = None
    guide_ema: float | None = None

    def facts(self) -> Config:
        """What is asked for, as plain data; empty where nothing is."""
        asked = vars(self) | {"diffusion": self._pieces()}
        return {name: value for name, value in asked.items() if value is not None and value != {}}

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
        asked = self.facts()
        if not asked:
            return
        if not isinstance(model.prior, Diffusion):
            words = [f"diffusion/{name}" for name in asked.pop("diffusion", {})] + list(asked)
            raise ValueError(f"{'=, '.join(words)}= is of diffusion; this run's prior is {type(model.prior).__name__}")
        self._put(model)
        _guide(model, guide)

    def _put(self, model: LatentModel) -> None:
        prior, config = model.prior, self._changed(model.config["prior"])
        for name in ("sampler", "grid", "guidance"):
            setattr(prior, name, build(config[name], f"diffusion.{name}", MODEL_PACKAGES))
        other = config.get("sampling_schedule")
        if other is not None:
            other = build(other, "diffusion.schedule", MODEL_PACKAGES).to(next(model.parameters()).device)
        prior.sampling_schedule = other
        prior.steps = config.get("steps", prior.steps)
        model.config = model.config | {"prior": config}

    def _changed(self, own: Config) -> Config:
        """The prior's node with the changes, checked as training checks it."""
        new = copy.deepcopy(own)
        for name, node in self._pieces().items():
            if name not in PIECES:
                raise ValueError(
                    f"diffusion/{name} is not of sampling{nearest(name, PIECES, 'A finished run takes another')}"
                )
            place = "sampling_schedule" if name == "schedule" else name
            new[place] = copy.deepcopy(merged(own.get(place) or own[name], node))
        if new.get("sampling_schedule") == own["schedule"]:
            del new["sampling_schedule"]
        if self.guidance is not None:
            scaled(new["guidance"])["scale"] = self.guidance
        if self.steps is not None:
            new["steps"] = self.steps
        check(new, "prior", ("latent_shape", "context"), MODEL_PACKAGES)
        return new


def merged(own: Any, given: Any) -> Any:
    """`own` with the arguments that are given, at any depth; a node that is given takes the place of one."""
    if is_node(given) or not isinstance(given, Mapping) or not isinstance(own, Mapping):
        return given
    return {**own, **{name: merged(own.get(name), value) for name, value in given.items()}}


def scaled(guidance: Config) -> Config:
    """The innermost node of a guidance that takes a scale; ValueError where there is none."""
    chain = [guidance]
    while is_node(chain[-1].get("guidance")):
        chain.append(chain[-1]["guidance"])
    for node in reversed(chain):
        if "scale" in inspect.signature(resolve(node["_target_"], "guidance", MODEL_PACKAGES)).parameters:
            return node
    raise ValueError(f"guidance= is a scale, and {chain[-1]['_target_']} has none")


def scale_of(guidance: Config) -> float:
    """Of the innermost guidance that has one."""
    node = scaled(guidance)
    default = inspect.signature(resolve(node["_target_"], "guidance", MODEL_PACKAGES)).parameters["scale"].default
    return float(node.get("scale", default))


def networks(prior: Diffusion) -> list[NetworkDenoiser]:
    """What sampling asks: the prior's denoiser and, under autoguidance, the guide's."""
    return [module for module in prior.guided().modules() if isinstance(module, NetworkDenoiser)]


# Autoguidance


def _guide(model: LatentModel, other: LatentModel | None) -> None:
    """Give the guidance of `model` its guide, and its contexts the guide's."""
    prior = model.prior
    if not waits_for_guide(prior.guidance):
        if other is not None:
            raise ValueError("guide= is of diffusion/guidance=autoguidance; this run's guidance has no guide")
        return
    if other is None:
        raise ValueError(
            "diffusion/guidance=autoguidance moves away from a worse model: give guide=DIR, a run trained less or "
            "smaller on the same first stage, or guide_ema=0.2, a wider average of the same run"
        )
    _fits(model, other)
    prior.guidance = with_guide(prior.guidance, Guide(_on_schedule_of(model, other)))

    def paired(_: Any, arguments: tuple, own: Any) -> Paired:
        return Paired(own.tokens, own.mask, own.spatial, own.empty, guide=other.condition(*arguments))

    model.condition.register_forward_hook(paired)


def _on_schedule_of(model: LatentModel, other: LatentModel) -> Denoiser:
    wanted, own = model.config["prior"], other.config["prior"]["schedule"]
    if wanted.get("sampling_schedule", wanted["schedule"]) == own:
        return other.prior.denoiser
    return Rescheduled(other.prior.denoiser, model.prior.sampling_schedule or model.prior.denoiser.schedule)


def _fits(model: LatentModel, other: LatentModel) -> None:
    """ValueError where a guide is of other latents or wants another condition."""
    if not isinstance(other.prior, Diffusion):
        raise ValueError(f"a guide is a diffusion; its prior is {type(other.prior).__name__}")
    shapes = model.autoencoder.latent_shape, other.autoencoder.latent_shape
    if shapes[0] != shapes[1]:
        raise ValueError(f"the guide's latents are {shapes[1]} and this run's {shapes[0]}; both need one first stage")
    first, second = model.autoencoder.state_dict(), other.autoencoder.state_dict()
    same = first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )
    if not same:
        raise ValueError(
            "the guide's latents are those of another autoencoder, or whitened otherwise; train it on this run's first "
            "stage: the same store, or autoencoder.checkpoint=RUN"
        )
    strange = set(other.condition.needs) - set(model.condition.needs)
    if strange:
        raise ValueError(f"the guide is conditioned on {', '.join(sorted(strange))}, which this run is not")
