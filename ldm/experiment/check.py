"""What a run's config has to be before anything is begun: every node bound to its signature, every plain word of its kind,
what goes together going together. A mistake found here costs nothing; found later, hours."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import nn

from ldm import plugins
from ldm.build import Config, build, check, is_node, plain
from ldm.condition.conditioner import Conditioner
from ldm.condition.spatial import Spatial
from ldm.data.batches import micro_batch
from ldm.data.caption import clean
from ldm.data.module import DataModule
from ldm.data.source import COLUMNS
from ldm.metric.metric import Metric
from ldm.model import HANDED, PARTS, LatentModel
from ldm.nearest import nearest
from ldm.prior.base import Prior
from ldm.report.quantity import lower_is_better
from ldm.resolve import ConfigError, resolve
from ldm.run.evaluation import Evaluation
from ldm.signature import PIECES
from ldm.stage.sharding import check_sharding

NODES = (
    "data",
    *PARTS,
    "loss",
    "alignment",
    "first",
    "second",
    "trainer",
    "logger",
    "callback",
    "metric",
    "evaluation",
)
# What a part is handed beside its config, by whoever builds it.
_GIVEN = {**HANDED, "alignment": ("width", "grid")}
# Arguments of Lightning's trainer, and the words by which the same is said here.
_OF_STAGES = {
    **dict.fromkeys(
        ("max_steps", "min_steps", "max_epochs", "min_epochs", "fast_dev_run", "overfit_batches"), ("steps",)
    ),
    "limit_train_batches": ("steps",),
    "max_time": ("budget.seconds",),
    "accumulate_grad_batches": ("accumulate",),
    "gradient_clip_val": ("clip",),
    "gradient_clip_algorithm": ("clip",),
    "val_check_interval": ("validate_every",),
    "check_val_every_n_epoch": ("validate_every",),
    "limit_val_batches": ("validate_images",),
    "log_every_n_steps": ("log_every",),
    "enable_checkpointing": ("save_every",),
    "logger": ("logger=",),
    "callbacks": ("callback=",),
}
_NAME = re.compile(r"(?!\.)[^/\\\x00]+(/(?!\.)[^/\\\x00]+)*")  # no way out of runs/


@dataclass(frozen=True)
class Settings:
    """The plain words of a run; the rest of its config are nodes."""

    experiment: str
    name: str | None
    seed: NonNegativeInt
    runs: str
    store: str
    cache_latents: bool | Literal["auto"]
    rank_timeout: PositiveFloat = 120.0
    keep: Literal["all", "model"] = "all"
    plugins: list[str] = field(default_factory=list)
    objective: str | list[str] | None = None


def checked(config: Config) -> Config:
    """The config with its plain words of the right kind; ConfigError where it cannot be built."""
    settings = _settings(config)
    # An experiment's words for a stage that is then not trained (stage@second=none) are of nothing.
    config = config | {stage: config[stage] if is_node(config.get(stage)) else {} for stage in ("first", "second")}
    for group in ("metric", "logger", "callback"):  # without one that is left out, as metric.distances=null
        config = config | {group: {name: node for name, node in (config.get(group) or {}).items() if node is not None}}
        _check_chosen(config[group], group)
    _check_composed(config)
    for part in NODES:
        if config.get(part) is not None:
            check(config[part], part, _GIVEN.get(part, ()))
    for stage in ("first", "second"):
        if config.get(stage):
            _check_optimizer(config[stage], stage)
    _check_trainer(config["trainer"])
    _check_sharding(config["trainer"])
    _check_best(config)
    return config | dataclasses.asdict(settings) | {"plugins": _plugins(config, settings)}


def _check_chosen(nodes: Config, group: str) -> None:
    """ConfigError where there are words for one that is not chosen, as an experiment's for a metric that was replaced."""
    for name, node in nodes.items():
        if not is_node(node):
            raise ConfigError(
                f"{group}.{name}: there are words for it, and it is not among those chosen; add it, as {group}=[...,{name}], "
                f"or leave them out, as ~{group}.{name}"
            )


def _check_composed(config: Config) -> None:
    """ConfigError where a condition on images is composed with another one, for which there is no place."""
    inner = (config["condition"] or {}).get("of")
    if is_node(inner) and issubclass(kind := resolve(inner["_target_"], "condition.of"), Spatial):
        raise ConfigError(
            f"condition.of: {kind.__name__} is a condition on a part of each image, as the one around it is, and a latent has "
            "place for one map; take label, text or none"
        )


def check_cache(config: Config, condition: Conditioner) -> None:
    """ConfigError where latents are to take the place of the images that a condition reads."""
    if config["cache_latents"] is True and "image" in condition.needs:
        raise ConfigError(
            f"cache_latents=true keeps latents in the place of images, and this condition, {type(condition).__name__}, reads the "
            "image at each visit; leave cache_latents out"
        )


def _check_best(config: Config) -> None:
    """ConfigError where the best weights are to be kept by what no evaluation in training could tell."""
    kept = {stage: (config.get(stage) or {}).get("keep_best") for stage in ("first", "second")}
    if kept["first"] is not None:
        raise ConfigError("first.keep_best: the first stage is not evaluated in training; second.keep_best= is")
    if kept["second"] is None:
        return
    if not config["evaluation"].get("every") or not config["metric"]:
        raise ConfigError(
            f"second.keep_best={kept['second']} chooses among evaluations in training, and there are none: give "
            "evaluation.every=IMAGES and a metric="
        )
    try:
        lower_is_better(kept["second"])
    except ValueError as error:
        raise ConfigError(f"second.keep_best={error}") from error


def _check_trainer(trainer: Config) -> None:
    """ConfigError where an argument of Lightning's trainer is to do what a stage does itself."""
    for name, instead in _OF_STAGES.items():
        if name in trainer:
            words = " or ".join(word if "=" in word else f"first.{word}= or second.{word}=" for word in instead)
            raise ConfigError(f"trainer.{name}={trainer[name]}: this is no affair of the trainer here; take {words}")


def _check_sharding(trainer: Config) -> None:
    """ConfigError where weights are to be sharded in a precision that scales the loss, which is found out rank by rank."""
    if trainer.get("strategy") == "fsdp" and str(trainer.get("precision")) in ("16", "16-mixed", "16-true"):
        raise ConfigError(
            f"trainer.strategy=fsdp with trainer.precision={trainer['precision']}: a loss scale is not shared by ranks that have "
            "parts of a gradient; take bf16-mixed"
        )


def check_prior(config: Config, model: LatentModel, begins: bool) -> None:
    """ConfigError where a model's prior cannot be trained as the config says.

    Arguments:
        begins: whether it begins from the weights of a checkpoint.
    """
    if not config.get("second"):
        return
    if model.prior.TUNES and not begins:
        raise ConfigError(
            f"{type(model.prior).__name__} goes on from {model.prior.TUNES}, and here it would begin from random weights, of "
            "which nothing good is known to come: give prior.checkpoint=RUN"
        )
    if config["trainer"].get("strategy") == "fsdp" and len(model.prior.sides()) == 1:  # a game is not sharded
        _check_shared(model.prior)
        networks = [model.condition, *model.prior.networks()]
        check_sharding(networks, nn.ModuleDict({"condition": model.condition, "prior": model.prior}))


def _check_shared(prior: Prior) -> None:
    """ConfigError where ranks cannot share a prior's weights: they would wait for each other for ever."""
    why = prior.whole()
    if why is not None:
        raise ConfigError(
            f"trainer.strategy=fsdp lets each rank have a part of the weights, and of {type(prior).__name__} {why}; take "
            "trainer.strategy=ddp"
        )


def check_stages(config: Config, pretrained: bool, autoencoder: nn.Module) -> None:
    """ConfigError where nothing makes the first stage: neither trained nor given, though it has weights to learn."""
    if not config.get("first") and not pretrained and any(p.requires_grad for p in autoencoder.parameters()):
        raise ConfigError(
            "stage@first=none: this autoencoder has weights that nothing trains; give autoencoder.checkpoint=DIR, or take "
            "autoencoder=identity or stage@first=first"
        )


def check_train(config: Config, train: Any, checkpoint: str | None) -> bool:
    """Whether a first stage that is given is trained on (`autoencoder.train`); ConfigError where nothing could be."""
    if train is None:
        return False
    if checkpoint is None:
        raise ConfigError(
            "autoencoder.train says what becomes of the weights of autoencoder.checkpoint=, which is not given"
        )
    trains = plain(train, bool, "autoencoder.train")
    if trains and not is_node(config.get("first")):
        raise ConfigError(
            "autoencoder.train=true trains the first stage on, and stage@first=none trains none: leave one out"
        )
    return trains


def check_batch(config: Config, world: int) -> None:
    """ValueError where the global batch cannot be shared by `world` ranks and the accumulated parts of a stage."""
    for stage in ("first", "second"):
        if config.get(stage):
            micro_batch(config["data"]["batch_size"], world, config[stage].get("accumulate", 1))


def check_data(condition: Conditioner, metrics: Mapping[str, Metric], data: DataModule) -> None:
    """ConfigError where a condition or a metric reads what the data do not have."""
    for split, source in data.sources.items():
        for column in condition.needs:
            if column in COLUMNS and column not in source.columns:
                raise ConfigError(
                    f"the condition reads each image's {column} and data.{split} has none: name the column "
                    f"(data.{split}.{column}=COLUMN), or take condition=none"
                )
    held_out = data.sources["val"]
    for name, metric in metrics.items():
        for column in metric.needs:
            for split in [split for split in ("val", "train") if column not in data.sources[split].columns]:
                raise ConfigError(
                    f"metric.{name} reads each image's {column} and data.{split} has none: name the column "
                    f"(data.{split}.{column}=COLUMN), or take another metric=, as offline"
                )
        if "caption" in held_out.columns:
            try:
                metric.check(clean(stored)[0] for stored in held_out.captions())
            except ValueError as error:
                raise ConfigError(f"metric.{name}: {error}") from error


def check_evaluation(evaluation: Evaluation, condition: Conditioner, data: DataModule) -> None:
    """ConfigError where the data do not have the real images, or the labels, that samples are to be measured with."""
    try:
        evaluation.check(data, condition.needs)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _settings(config: Config) -> Settings:
    fields = typing.get_type_hints(Settings, include_extras=True)
    for key in config.keys() - fields.keys() - {*NODES, *PIECES}:
        raise ConfigError(f"{key}: no such setting{nearest(key, [*fields, *NODES])}")
    settings = Settings(**{key: plain(config[key], hint, key) for key, hint in fields.items() if key in config})
    if settings.name is not None and not _NAME.fullmatch(settings.name):
        raise ConfigError(f"name: {settings.name!r} is to be a directory below runs, as mine or study/mine")
    return settings


def _plugins(config: Config, settings: Settings) -> list[str]:
    """The packages that the config names and those whose classes it builds. The latter are named from here on, since who runs a
    config wants its classes to run; ConfigError where it names one that nobody else has named."""
    for package in settings.plugins:
        if package not in plugins.known():
            raise ConfigError(
                f"plugins: the config says {package}, and a plugin is named by who runs it: plugins=[{package}] on the "
                f"command line, or {plugins.ENVIRONMENT}={package} in the environment"
            )
    needed = plugins.needed({part: config.get(part) for part in NODES})
    plugins.name(needed)
    return list(dict.fromkeys((*settings.plugins, *needed)))


def _check_optimizer(node: Config, stage: str) -> None:
    """Ranges that only a constructor knows, as of the optimiser a negative learning rate, and that there is one budget."""
    try:
        recipe = build(node, stage)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{stage}: {error}") from error
    try:
        recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise ConfigError(f"{stage}.optimizer: {error}") from error
