"""Models of the library diffusers: `AutoencoderKL`, `VQModel` and `UNet2DConditionModel`, read as our networks and written from
them.

A model of diffusers is a directory with a config.json and safetensors; nothing is ever unpickled. Our networks equal theirs
layer for layer under other names, except that queries, keys and values are the rows of one matrix (stacked and split here),
and that 1x1 convolutions around attention are linear maps. Their latents are whitened by one number, or by one for each
channel,

    z = (raw - shift) * scaling_factor      or      z = (raw - latents_mean) * scaling_factor / latents_std,

and this becomes our latent_mean and latent_std. Their U-Net embeds the integer step of the table that it was trained on; ours
computes this step from log SNR (`StepEmbedding`). A U-Net alone does not say which schedule it was trained on and what it
predicts. The scheduler beside it does, and both together make a denoiser.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.backbone.unet import UNet
from ldm.build import Config, build
from ldm.diffusion.denoiser import NetworkDenoiser
from ldm.diffusion.schedule import ScaledLinear, Table, ZeroTerminalSNR
from ldm.files import whole_directory, write_json
from ldm.interop.diffusers_autoencoder import autoencoder_node, config_of_autoencoder, latent_statistics
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_names import autoencoder_names, unet_names
from ldm.interop.diffusers_scheduler import Scheduler, read_scheduler
from ldm.interop.diffusers_unet import config_of_unet, context_of, unet_node, whole_unet
from ldm.tensors import read_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
_HALF = ("fp16", "bf16")  # variants of the same weights, which are read where there are no others

Module = TypeVar("Module", bound=nn.Module)

log = logging.getLogger(__name__)


def autoencoder_from_diffusers(source: str | Path, image_shape: tuple[int, int, int] | None = None) -> Autoencoder:
    """Our autoencoder with the weights of an `AutoencoderKL` or a `VQModel`.

    Arguments:
        source: a directory of the model, one of a whole pipeline, or a name on the hub.
        image_shape: (c, h, w) of the images; by default the size that it was trained on.
    """
    folder = find_folder(source, "vae")
    theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    autoencoder = build(autoencoder_node(theirs, image_shape), "autoencoder")
    load_autoencoder(autoencoder, folder, theirs)
    return autoencoder.eval()


def load_autoencoder(autoencoder: Autoencoder, folder: Path, theirs: Mapping[str, Any]) -> None:
    """Put the weights of an autoencoder's directory and the whitening of its config into ours, which that config describes."""
    load_named(autoencoder, autoencoder_names(autoencoder), read_weights(folder))
    if isinstance(autoencoder.bottleneck, VectorQuantiser):
        autoencoder.bottleneck.begun()
    autoencoder.set_statistics(*latent_statistics(theirs))


def unet_from_diffusers(source: str | Path, schedule: Table | ZeroTerminalSNR | None = None) -> UNet:
    """Our U-Net with the weights of a `UNet2DConditionModel`. It does not know what it predicts, which the scheduler of a
    pipeline says: see `denoiser_from_diffusers`.

    Arguments:
        source: a directory of the model, one of a whole pipeline, or a name on the hub.
        schedule: the schedule that it was trained on; by default that of the pipeline's scheduler, or else that of Stable
            Diffusion.
    """
    folder = find_folder(source, "unet")
    if schedule is None:
        scheduler = scheduler_beside(folder)
        schedule = ScaledLinear() if scheduler is None else scheduler.schedule
    return _unet(folder, schedule)


def denoiser_from_diffusers(source: str | Path, scheduler: Scheduler | None = None) -> NetworkDenoiser:
    """The denoiser E[x | x_t, c] of a pipeline: its U-Net on the schedule and with the parameterization of its scheduler.

    How the scheduler samples is ignored. What it says of sampling is logged, and `read_scheduler` returns it.

    Arguments:
        source: a directory of the pipeline or of a U-Net, or a name on the hub.
        scheduler: the scheduler, where there is none beside the U-Net, or to replace that one.

    Raises:
        FileNotFoundError: no scheduler is given, and there is none beside the U-Net.
        ForeignModelError: none of our networks equals the model.
    """
    folder = find_folder(source, "unet")
    scheduler = scheduler or scheduler_beside(folder)
    if scheduler is None:
        raise FileNotFoundError(
            f"{_scheduler_file(folder)} is missing, which says what this U-Net was trained on and predicts: give the "
            "directory of the whole pipeline, or scheduler=read_scheduler({...})"
        )
    if scheduler.sampling:
        choices = ", ".join(f"{key}={value}" for key, value in scheduler.sampling.items())
        log.info("%s: its scheduler's choices of sampling are not followed: %s", source, choices)
    return NetworkDenoiser(_unet(folder, scheduler.schedule), scheduler.schedule, scheduler.parameterization).eval()


def _unet(folder: Path, schedule: Table | ZeroTerminalSNR) -> UNet:
    theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    node = unet_node(theirs, schedule)
    unet = build(node, "backbone")(channels=whole_unet(theirs)["in_channels"], context=context_of(theirs))
    load_named(unet, unet_names(unet), read_weights(folder))
    return unet.eval()


def _scheduler_file(unet: Path) -> Path:
    return unet.absolute().parent / "scheduler" / "scheduler_config.json"


def scheduler_beside(unet: Path) -> Scheduler | None:
    """What the scheduler of the pipeline says that a U-Net's directory is part of; None where there is none."""
    file = _scheduler_file(unet)
    return read_scheduler(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def autoencoder_to_diffusers(autoencoder: Autoencoder, folder: Path) -> None:
    """Write the directory of an `AutoencoderKL`, or of codes a `VQModel`, that equals our autoencoder; ForeignModelError where
    there is none."""
    write_network(folder, config_of_autoencoder(autoencoder), autoencoder, autoencoder_names)


def unet_to_diffusers(unet: UNet, folder: Path) -> None:
    """Write the directory of a `UNet2DConditionModel`, or of a `UNet2DModel`, that equals our U-Net;
    ForeignModelError where there
    is none."""
    write_network(folder, config_of_unet(unet), unet, unet_names)


def write_network(
    folder: Path, config: Config, module: Module, names: Callable[[Module], Mapping[str, list[str]]]
) -> None:
    """Write a network's directory: its config, and its tensors by the names that are read, too (`diffusers_names`)."""
    own, theirs = module.state_dict(), {}
    for name, parts in names(module).items():
        for part, rows in zip(parts, own[name].cpu().chunk(len(parts)), strict=True):
            theirs[part] = rows.clone(memory_format=torch.contiguous_format)
    with whole_directory(folder) as unfinished:
        write_json(unfinished / "config.json", config)
        save_file(theirs, unfinished / WEIGHTS, metadata={"format": "pt"})


_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _modern(name: str) -> str:
    """The present name of a tensor of an attention layer from a file of before 2023."""
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def load_named(module: nn.Module, names: Mapping[str, list[str]], theirs: Mapping[str, Tensor]) -> None:
    """Load their tensors into `module`; ForeignModelError where one is missing or one remains."""
    theirs = {_modern(name): value for name, value in theirs.items()}
    wanted = {name for parts in names.values() for name in parts}
    if missing := sorted(wanted - theirs.keys()):
        raise ForeignModelError(f"the weights lack {len(missing)} tensors that the config promises, as {missing[:3]}")
    if surplus := sorted(theirs.keys() - wanted):
        raise ForeignModelError(f"the weights hold {len(surplus)} tensors that ours has no place for, as {surplus[:3]}")
    own = module.state_dict()
    for name, parts in names.items():
        rows = torch.cat([theirs[part] for part in parts])
        if rows.numel() != own[name].numel() or rows.shape[: min(2, own[name].ndim)] != own[name].shape[:2]:
            raise ForeignModelError(f"{parts} make {tuple(rows.shape)}, but {name} is {tuple(own[name].shape)}")
        own[name].copy_(rows.view(own[name].shape))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a directory, in float32, from the files of full precision or else from those of half precision."""
    for variant in (None, *_HALF):
        if files := _weight_files(folder, variant):
            break
    else:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}; only safetensors are read, since a pickle can run anything: "
            "convert a .bin with diffusers' save_pretrained(safe_serialization=True)"
        )
    if missing := [name for name in files if not (folder / name).exists()]:
        raise FileNotFoundError(f"{folder} lacks {missing[0]}, which its index names")
    if variant is not None:
        log.info("%s has weights of half precision only (%s)", folder, variant)
    return {name: value.float() for file in files for name, value in read_tensors(folder / file).items()}


def _weight_files(folder: Path, variant: str | None) -> list[str]:
    """The names of the files of a variant: a single one, or those that its index names; [] where there are none."""
    infix = "" if variant is None else f".{variant}"
    whole, index = folder / WEIGHTS.replace(".", f"{infix}.", 1), folder / f"{WEIGHTS}.index{infix}.json"
    if index.exists():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [whole.name] if whole.exists() else []


def find_folder(source: str | Path, part: str) -> Path:
    """The local directory of a model, with its config.json. Of a name on the hub, configs and safetensors are downloaded and
    nothing else.

    Arguments:
        source: a directory of the model, one of a whole pipeline, or a name on the hub.
        part: the directory of the model in a pipeline, as "vae".

    Raises:
        FileNotFoundError: there is no such directory or name, or no config.json.
    """
    folder = Path(source)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise FileNotFoundError(f"{source} is neither a directory nor a hub name (owner/name)")
        wanted = [
            f"{prefix}{file}" for prefix in ("", f"{part}/") for file in ("config.json", "diffusion_pytorch_model*")
        ]
        wanted += ["scheduler/scheduler_config.json"]
        never = ["*.bin", "*.msgpack", "*.h5", "*non_ema*"]
        halves = [f"*.{variant}*" for variant in _HALF]
        folder = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=[*never, *halves]))
        if not any(folder.rglob("*.safetensors")):
            folder = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=never))
    for candidate in (folder, folder / part):
        if (candidate / "config.json").exists():
            return candidate
    raise FileNotFoundError(f"{folder} has neither config.json nor {part}/config.json: is it a model of diffusers?")
