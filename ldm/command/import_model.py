"""A model of another library as a run of ours, to sample, measure and train on.

    model/             the model: safetensors and config
    text_encoder/      text encoder and tokenizer of a pipeline
    config.yaml        with data=: what it is measured on
    words/experiment/imported.yaml   a training that begins from it: --config-dir RUN/words experiment=imported

A source that is a directory, or a name on the hub, is a pipeline of diffusers; a file is one of CompVis's code.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import PositiveFloat, PositiveInt

from ldm.build import Config
from ldm.diffusion.parameterization import Data, Noise, V
from ldm.files import folder, whole_directory, write_text
from ldm.interop.pipeline_source import located
from ldm.interop.whole_model import Predicts, model_from_compvis, model_from_pipeline
from ldm.model import LatentModel, write_weights

log = logging.getLogger(__name__)

_PARAMETERIZATIONS = {Noise: "noise", V: "v", Data: "data"}


def import_model(
    source: str,
    run: str,
    text: str | None,
    size: PositiveInt | None,
    heads: PositiveInt | None,
    predicts: Predicts | None,
    scale: PositiveFloat | None,
    evaluation: dict[str, Any],
    store: str,
    seed: int,
    data: dict[str, Any] | None = None,
    metric: dict[str, Any] | None = None,
) -> None:
    """Write the run's directory, which is not there yet."""
    place = folder(Path(run), "run")
    if place.exists():
        raise FileExistsError(f"run={run} is there already; name a directory that is not, or remove it")
    given = located(source)
    shape = None if size is None else (3, size, size)
    raw = None
    try:
        if given.is_dir():
            _refuse_of_files(heads=heads, predicts=predicts, scale=scale)
            encoder = _text_encoder(given, place) if text is None else text
            model = model_from_pipeline(given, encoder, shape)
        else:
            model, raw = model_from_compvis(given, text, shape, heads, predicts or "noise", scale)
        model.made_from = {"imported": str(given.absolute()) if Path(source).exists() else source}
        model.save(place / "model")
        if raw is not None:
            write_weights(raw, place / "model" / "raw.safetensors")
        if data is not None:
            rest = {"name": place.name, "seed": seed, "store": store, "metric": metric, "evaluation": evaluation}
            write_text(place / "config.yaml", yaml.safe_dump(_measured(model, data, rest), sort_keys=False))
        words = place / "words"
        experiment = yaml.safe_dump(_experiment(model, place), sort_keys=False)
        write_text(words / "experiment" / "imported.yaml", f"# @package _global_\n{experiment}")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    weights, images, latents = _count(model), model.autoencoder.image_shape, model.autoencoder.latent_shape
    log.info("%s is a run of %.3f M weights: images %s, latents %s", run, weights / 1e6, images, latents)
    log.info("train on: python train.py --config-dir %s experiment=imported data=folder data.root=DIR", words)


def _count(model: LatentModel) -> int:
    return sum(p.numel() for p in model.parameters())


def _measured(model: LatentModel, data: Config, rest: Config) -> Config:
    """The config of a run that has trained nothing, as evaluate.py reads it."""
    own = {part: model.config[part] for part in ("autoencoder", "condition", "prior")}
    images = data | {"image_shape": list(model.autoencoder.image_shape)}
    return {"experiment": "imported", "first": None, "second": {"steps": 0}, "data": images, **rest, **own}


def _refuse_of_files(**words: Any) -> None:
    if given := [f"{word}=" for word, value in words.items() if value is not None]:
        raise ValueError(f"{given[0]} is of a file of CompVis's code; a pipeline of diffusers says it itself")


def _text_encoder(pipeline: Path, run: Path) -> str | None:
    """Copy what a pipeline encodes captions by into one directory of the run; None where it has no text encoder."""
    if not (pipeline / "text_encoder" / "config.json").exists():
        return None
    weights = list((pipeline / "text_encoder").glob("model.safetensors"))
    weights = weights or list((pipeline / "text_encoder").glob("model-*-of-*.safetensors"))
    if not weights:
        raise FileNotFoundError(
            f"{pipeline / 'text_encoder'} has no model.safetensors; only safetensors are read, since a pickle can run anything"
        )
    with whole_directory(run / "text_encoder") as made:
        for file in (*(pipeline / "tokenizer").glob("*"), *(pipeline / "text_encoder").glob("*")):
            if file.suffix in (".json", ".txt", ".model") or file in weights:
                shutil.copyfile(file, made / file.name)
    return str((run / "text_encoder").absolute())


def _experiment(model: LatentModel, run: Path) -> Config:
    """The words of a training that begins from the run: its network, its schedule, how it draws samples, and the rest of them
    as they stand in conf/."""
    prior, place = model.config["prior"], str(run.absolute())
    condition = "none" if not model.condition.needs else "label" if "label" in model.condition.needs else "padded"
    words = {
        "autoencoder": "kl_f8",
        "condition": condition,
        "backbone": "unet",
        "diffusion": "ddpm",
        "diffusion/parameterization@diffusion.parameterization": _PARAMETERIZATIONS[
            type(model.prior.denoiser.parameterization)
        ],
        "diffusion/sampler@diffusion.sampler": "ddim",
        "diffusion/grid@diffusion.grid": type(model.prior.grid).__name__.lower(),
    }
    return {
        "defaults": [{f"override /{group}": word} for group, word in words.items()],
        "experiment": "imported",
        "autoencoder": {"checkpoint": place},
        "condition": _without_target(model.config["condition"]),
        "backbone": _without_target(prior["backbone"]),
        "diffusion": {
            "schedule": dict(prior["schedule"]),
            "grid": _without_target(prior["grid"]),
            "guidance": {"scale": prior["guidance"]["scale"]},
            "steps": prior["steps"],
        },
        "prior": {"checkpoint": place},
        "data": {"image_shape": list(model.autoencoder.image_shape)},
    }


def _without_target(node: Mapping[str, Any]) -> Config:
    """The arguments of a node, whose class a word names."""
    return {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
