"""The settings of a stage: everything that its updates depend on, by value.

They are parts, loss, recipe, precision, seed, and what identifies the training images and their order: never where these lie, nor
what only looks on. Whether updates that were made under some settings count under others is ldm.stage.provenance's to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm.build import Config
from ldm.data.module import DataModule
from ldm.files import checksum
from ldm.resolve import resolve
from ldm.run.store import key_of
from ldm.stage.recipe import WATCHING

Settings = dict[str, Any]
History = list[dict[str, Any]]
"""All settings under which updates were made (ldm.stage.provenance)."""

FIRST = "first stage"
"""The key under which a second stage's settings hold what its latents were made by."""

# Callbacks of Lightning that do not change what a stage computes; others may.
_WATCHERS = {
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "Timer", "EarlyStopping", "ModelCheckpoint"),
    *("OnExceptionCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"),
}


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
    settings = parts | {"prior": prior, "data": of_data(data), FIRST: {"history": first, "weights": weights}}
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
