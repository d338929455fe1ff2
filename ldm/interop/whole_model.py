"""A whole model of another library as one of ours: its first stage, its condition, its U-Net and the schedule that
it was trained on.

    a pipeline of diffusers   vae/ or vqvae/, unet/, scheduler/, and text_encoder/ with tokenizer/ where there are any
    a file of CompVis's code  first_stage_model.*, model.diffusion_model.* and their averages, betas, and
    cond_stage_model.* of labels

The network and what it was trained on are theirs. How samples are drawn is ours: by DDIM along the steps of their table that
their scheduler says. Weights of the loss and law of times, which no foreign model knows, are those of the recipe ddpm, for
training on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ldm.build import Config
from ldm.constructed import node_of
from ldm.diffusion.parameterization import Data, Noise, Parameterization, V
from ldm.diffusion.schedule import Betas, ScaledLinear, Schedule
from ldm.interop import compvis_names, compvis_nodes
from ldm.interop.compvis import load_first_stage, part
from ldm.interop.compvis_names import AVERAGES, FIRST_STAGE, UNET, averaged
from ldm.interop.diffusers import find_folder, load_autoencoder, load_named, read_weights, scheduler_beside
from ldm.interop.diffusers_autoencoder import autoencoder_node
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_names import unet_names
from ldm.interop.diffusers_unet import context_of, log_snr_of_steps, unet_node
from ldm.model import LatentModel
from ldm.tensors import read_foreign

log = logging.getLogger(__name__)

Predicts = Literal["noise", "v", "data"]
_PREDICTS: dict[str, type[Parameterization]] = {"noise": Noise, "v": V, "data": Data}
_SCALE = 0.18215  # Stable Diffusion's
_LENGTH = 77  # tokens of CLIP
_READ = {"vae", "vqvae", "unet", "scheduler", "text_encoder", "tokenizer"}
_GUIDANCE = 7.5  # that their pipelines have by default
_NOT_OURS = ("loss.", "logvar", "cond_stage_model.", "alphas_", "sqrt_", "log_one_minus", "posterior_", "lvlb_weights")
_NOT_OURS += (AVERAGES, "betas", "scale_factor", "model_ema.", "learning_rate")


def model_from_pipeline(folder: Path, text: str | None, image_shape: tuple[int, int, int] | None = None) -> LatentModel:
    """The model of a directory that a pipeline of diffusers was saved to.

    Arguments:
        text: a directory that holds its text encoder and its tokenizer together; None where it has none.
        image_shape: (c, h, w) of the images; by default what its U-Net and its autoencoder say.
    """
    if strange := _other_parts(folder):
        raise ForeignModelError(f"{folder} has parts that no model of ours has: {', '.join(strange)}")
    unet_folder = find_folder(folder, "unet")
    vae_folder = find_folder(folder, "vqvae" if (folder / "vqvae").is_dir() else "vae")
    scheduler = scheduler_beside(unet_folder)
    if scheduler is None:
        raise FileNotFoundError(
            f"{folder} has no scheduler/scheduler_config.json, which says what its U-Net was trained on"
        )
    theirs, vae = (json.loads((each / "config.json").read_text(encoding="utf-8")) for each in (unet_folder, vae_folder))
    tokens = context_of(theirs).tokens
    if tokens is not None and text is None:
        raise ForeignModelError(f"{folder} has no text_encoder, and its U-Net attends to tokens of {tokens} channels")
    first = autoencoder_node(vae, image_shape or _image_shape(vae, theirs))
    condition = _condition(text if tokens is not None else None)
    prior = _prior(
        unet_node(theirs, scheduler.schedule), scheduler.schedule, scheduler.parameterization, text is not None
    )
    prior["grid"] = _grid(scheduler.sampling, scheduler.schedule)
    model = LatentModel.build({"autoencoder": first, "condition": condition, "prior": prior})
    load_autoencoder(model.autoencoder, vae_folder, vae)
    unet = model.prior.denoiser.backbone
    load_named(unet, unet_names(unet), read_weights(unet_folder))
    _told(scheduler.sampling)
    return model.eval()


def _other_parts(folder: Path) -> list[str]:
    file = folder / "model_index.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{folder} has no model_index.json: wanted the directory of a whole pipeline of diffusers"
        )
    index = json.loads(file.read_text(encoding="utf-8"))
    parts = {name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None}
    return sorted(parts - _READ - {"safety_checker", "feature_extractor"})


def _image_shape(vae: Mapping[str, Any], unet: Mapping[str, Any]) -> tuple[int, int, int] | None:
    side = unet.get("sample_size")
    if side is None:
        return None
    height, width = (side, side) if isinstance(side, int) else side
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return vae.get("in_channels", 3), height * factor, width * factor


def _told(sampling: Config) -> None:
    """Say which of their choices of sampling are not taken over."""
    left = {key: value for key, value in sampling.items() if key not in ("timestep_spacing", "steps_offset")}
    if left:
        log.info("samples are drawn by DDIM; not followed: %s", ", ".join(f"{key}={left[key]}" for key in left))


def _condition(text: str | None) -> Config:
    if text is None:
        return {"_target_": "ldm.condition.none.Unconditional"}
    said = [_said(Path(text) / "tokenizer_config.json", "model_max_length")]
    said.append(_said(Path(text) / "config.json", "max_position_embeddings"))
    length = min((each for each in said if each is not None), default=_LENGTH)
    return {"_target_": "ldm.condition.padded.PaddedText", "source": str(text), "length": length}


def _said(file: Path, key: str) -> int | None:
    """What a file of JSON says under a key; None where there is none of both, as of a hub name."""
    return json.loads(file.read_text(encoding="utf-8")).get(key) if file.exists() else None


def _grid(sampling: Config, schedule: Schedule) -> Config:
    steps = getattr(schedule, "schedule", schedule).steps
    spacing = sampling.get("timestep_spacing")
    if spacing == "leading":
        offset = sampling.get("steps_offset", 0)
        return {"_target_": "ldm.diffusion.grid.Leading", "offset": offset, "table": steps}
    kind = {"linspace": "Linspace"}.get(spacing, "Trailing")
    return {"_target_": f"ldm.diffusion.grid.{kind}", "table": steps}


def _prior(backbone: Config, schedule: Schedule, parameterization: Parameterization, guided: bool) -> Config:
    return {
        "_target_": "ldm.prior.diffusion.Diffusion",
        "backbone": backbone,
        "schedule": node_of(schedule, "schedule"),
        "parameterization": node_of(parameterization, "parameterization"),
        "weighting": {"_target_": "ldm.diffusion.weighting.Uniform"},
        "time": {"_target_": "ldm.diffusion.time.Uniform"},
        "sampler": {"_target_": "ldm.diffusion.sampler.ddim.DDIM"},
        "grid": {"_target_": "ldm.diffusion.grid.Trailing"},
        "guidance": {
            "_target_": "ldm.diffusion.guidance.classifier_free.ClassifierFree",
            "_partial_": True,
            "scale": _GUIDANCE if guided else 1.0,
        },
        "steps": 50,
    }


def model_from_compvis(
    file: Path,
    text: str | None,
    image_shape: tuple[int, int, int] | None = None,
    heads: int | None = None,
    predicts: Predicts = "noise",
    scale: float | None = None,
) -> tuple[LatentModel, dict[str, Tensor] | None]:
    """The model of a file that CompVis's code has written, with its averaged weights where it holds them, and then the raw state,
    too.

    Arguments:
        text: a directory or a hub name of the text encoder, with its tokenizer; None where the model has labels or no condition.
        image_shape: (c, h, w) of the images; by default 64 times the factor between image and latent.
        heads: of the U-Net's attention; by default as in Stable Diffusion.
        predicts: what the U-Net does.
        scale: by which latents are multiplied; by default what the file says or, of KL, Stable Diffusion's.
    """
    found = read_foreign(file)
    first, network = part(found, FIRST_STAGE), part(found, UNET)
    if not network:
        raise ForeignModelError(
            f"{file} holds no {UNET}*; a first stage alone is autoencoder.checkpoint={file} of a training"
        )
    known = (FIRST_STAGE, UNET, *_NOT_OURS)
    if strange := sorted(name for name in found if not name.startswith(known)):
        raise ForeignModelError(
            f"{file} holds {len(strange)} tensors that ours has no place for, as {', '.join(strange[:3])}"
        )
    schedule = Betas(tuple(found["betas"].double().tolist())) if "betas" in found else ScaledLinear()
    labels, tokens = found.get("cond_stage_model.embedding.weight"), compvis_nodes.tokens_of(network)
    backbone = compvis_nodes.unet_node(network, heads, log_snr_of_steps(schedule))
    nodes: Config = {
        "autoencoder": compvis_nodes.autoencoder_node(first, image_shape),
        "condition": _condition_of(tokens, labels, text, file),
        "prior": _prior(backbone, schedule, _PREDICTS[predicts](), tokens is not None),
    }
    nodes["prior"]["grid"] = _grid({}, schedule)
    model = LatentModel.build(nodes)
    load_first_stage(model.autoencoder, first)
    channels = model.autoencoder.latent_mean
    model.autoencoder.set_statistics(
        torch.zeros_like(channels), torch.full_like(channels, 1 / _scale(found, first, scale))
    )
    if labels is not None:
        model.condition.tokens.weight.data.copy_(labels)
    unet = model.prior.denoiser.backbone
    names = compvis_names.unet_names(unet)
    load_named(unet, names, network)
    if not any(name.startswith(AVERAGES) for name in found):
        return model.eval(), None
    raw = {name: value.clone() for name, value in model.state_dict().items()}
    load_named(unet, names, {name: found[averaged(name)] for name in network if averaged(name) in found})
    return model.eval(), raw


def _scale(found: Mapping[str, Tensor], first: Mapping[str, Tensor], scale: float | None) -> float:
    if scale is not None:
        return scale
    if "scale_factor" in found:
        return found["scale_factor"].item()
    scale = 1.0 if "quantize.embedding.weight" in first else _SCALE
    log.info("the file does not say by what its latents are multiplied: %g is taken; scale=X is another", scale)
    return scale


def _condition_of(tokens: int | None, labels: Tensor | None, text: str | None, file: Path) -> Config:
    if labels is not None:
        return {"_target_": "ldm.condition.label.Label", "classes": len(labels) - 1, "width": labels.shape[1]}
    if tokens is not None and text is None:
        raise ForeignModelError(
            f"the U-Net of {file} attends to captions in tokens of {tokens} channels: say text=DIR, a directory or "
            f"hub name of the text "
            "encoder with its tokenizer, as openai/clip-vit-large-patch14"
        )
    return _condition(text if tokens is not None else None)
