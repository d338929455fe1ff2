"""Networks of diffusers, in and out: `AutoencoderKL` and `UNet2DConditionModel` as ours, with their weights.

A directory of theirs is a config.json beside safetensors; nothing is ever unpickled. Our networks are theirs layer for
layer under other names, except that queries, keys and values are rows of one matrix (stacked and split here) and that
1x1 convolutions around attention are linear maps. Their latents are whitened by one number or by one a channel,

    z = (raw - shift) * scaling_factor      or      z = (raw - latents_mean) * scaling_factor / latents_std,

which becomes our latent_mean and latent_std. Their U-Net embeds the integer step of the table it was trained on; ours
finds the step from the log-SNR (`StepEmbedding`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.backbone.unet import UNet
from ldm.build import Config, build
from ldm.diffusion.schedule import ScaledLinear, Table
from ldm.files import whole_directory, write_json
from ldm.interop.diffusers_config import (
    ForeignModelError,
    autoencoder_node,
    config_of_autoencoder,
    config_of_unet,
    table_of_scheduler,
    unet_node,
)
from ldm.interop.diffusers_names import autoencoder_names, unet_names
from ldm.tensors import read_tensors
from ldm.types import ContextShape

WEIGHTS = "diffusion_pytorch_model.safetensors"


def autoencoder_from_diffusers(source: str | Path, image_shape: tuple[int, int, int] | None = None) -> Autoencoder:
    """Our autoencoder with the weights of an `AutoencoderKL`: a directory, a pipeline's directory or a hub name.

    Arguments:
        image_shape: (c, h, w) to use it for; its own training size where not given.
    """
    folder = find_folder(source, "vae")
    theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    autoencoder = build(autoencoder_node(theirs, image_shape), "autoencoder")
    _load(autoencoder, autoencoder_names(autoencoder), _read_weights(folder))
    channels, scale = autoencoder.latent_shape[0], theirs.get("scaling_factor") or 1.0
    mean = theirs.get("latents_mean") or [theirs.get("shift_factor") or 0.0] * channels
    std = theirs.get("latents_std") or [1.0] * channels
    autoencoder.set_statistics(torch.tensor(mean), torch.tensor(std) / scale)
    return autoencoder.eval()


def unet_from_diffusers(source: str | Path, table: Table | None = None) -> UNet:
    """Our U-Net with the weights of a `UNet2DConditionModel`: a directory, a pipeline's directory or a hub name.

    Arguments:
        table: the schedule it was trained on; read from a pipeline's scheduler, else Stable Diffusion's.
    """
    folder = find_folder(source, "unet")
    theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scheduler = folder.parent / "scheduler" / "scheduler_config.json"
    if table is None and folder.name == "unet" and scheduler.exists():
        table = table_of_scheduler(json.loads(scheduler.read_text(encoding="utf-8")))
    node = unet_node(theirs, table or ScaledLinear())
    context = ContextShape(tokens=theirs["cross_attention_dim"])
    unet = build(node, "backbone")(channels=theirs["in_channels"], context=context)
    _load(unet, unet_names(unet), _read_weights(folder))
    return unet.eval()


def autoencoder_to_diffusers(autoencoder: Autoencoder, folder: Path) -> None:
    """Write the directory of the `AutoencoderKL` that equals ours; ForeignModelError where none can."""
    _write(folder, config_of_autoencoder(autoencoder), autoencoder, autoencoder_names(autoencoder))


def unet_to_diffusers(unet: UNet, folder: Path) -> None:
    """Write the directory of the `UNet2DConditionModel` that equals ours; ForeignModelError where none can."""
    _write(folder, config_of_unet(unet), unet, unet_names(unet))


def _write(folder: Path, config: Config, module: nn.Module, names: Mapping[str, list[str]]) -> None:
    own, theirs = module.state_dict(), {}
    for name, parts in names.items():
        for part, rows in zip(parts, own[name].cpu().chunk(len(parts)), strict=True):
            theirs[part] = rows.clone(memory_format=torch.contiguous_format)
    with whole_directory(folder) as unfinished:
        write_json(unfinished / "config.json", config)
        save_file(theirs, unfinished / WEIGHTS, metadata={"format": "pt"})


_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _modern(name: str) -> str:
    """The present name of a tensor of an attention layer in a file written before 2023."""
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _load(module: nn.Module, names: Mapping[str, list[str]], theirs: Mapping[str, Tensor]) -> None:
    """Fill `module`; every tensor of theirs must find its place."""
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


def _read_weights(folder: Path) -> dict[str, Tensor]:
    index = folder / f"{WEIGHTS}.index.json"
    files = {WEIGHTS}
    if index.exists():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    missing = [name for name in sorted(files) if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {missing[0]}; only safetensors are read, since a pickle can run anything: "
            "convert a .bin with diffusers' save_pretrained(safe_serialization=True)"
        )
    return {name: value.float() for file in sorted(files) for name, value in read_tensors(folder / file).items()}


def find_folder(source: str | Path, part: str) -> Path:
    """A local directory with a config.json, downloading a hub name's config and safetensors (and nothing else)."""
    folder = Path(source)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise FileNotFoundError(f"{source} is neither a directory nor a hub name (owner/name)")
        wanted = [
            f"{prefix}{file}" for prefix in ("", f"{part}/") for file in ("config.json", "diffusion_pytorch_model*")
        ]
        wanted += ["scheduler/scheduler_config.json"]
        folder = Path(
            snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=["*.bin", "*.fp16.*", "*non_ema*"])
        )
    for candidate in (folder, folder / part):
        if (candidate / "config.json").exists():
            return candidate
    raise FileNotFoundError(f"{folder} has neither config.json nor {part}/config.json: is it a model of diffusers?")
