"""A model of ours as a whole pipeline of diffusers, which `DiffusionPipeline.from_pretrained` loads and runs.

    model                                        pipeline
    no condition, a U-Net without attention      LDMPipeline(vqvae, unet, scheduler), of codes (VQModel), too
    no condition, a U-Net with attention         StableDiffusionPipeline, whose prompt is the empty one
    labels                                       StableDiffusionPipeline, whose prompts are the names of classes (`label_encoder`)
    captions by `PaddedText`                     StableDiffusionPipeline with that text encoder

The networks are rewritten by ldm.interop.folding until diffusers' classes can hold them, and then written by the names by which
they are read (`diffusers_names`). A pipeline samples by DDIM along a table over the noise levels that were trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.backbone.unet import UNet
from ldm.build import Config
from ldm.condition.conditioner import Conditioner
from ldm.condition.label import Label
from ldm.condition.none import Unconditional
from ldm.condition.padded import PaddedText
from ldm.condition.text import Text
from ldm.diffusion.parameterization import Karras, Parameterization, V, Velocity
from ldm.diffusion.schedule import circle
from ldm.files import whole_directory, write_json
from ldm.interop.diffusers import write_network
from ldm.interop.diffusers_autoencoder import config_of_autoencoder
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_names import autoencoder_names, unet_names
from ldm.interop.diffusers_scheduler import PREDICTIONS, config_of_scheduler
from ldm.interop.diffusers_unet import config_of_unet
from ldm.interop.folding import attending, negated, stepped, whitened_inside, wider, with_usual_eps
from ldm.interop.label_encoder import ADDED, encoder_of, tokenizer_of
from ldm.model import LatentModel
from ldm.nn.attention import SpatialTransformer
from ldm.prior.diffusion import Diffusion

_ELSEWHERE = "to=onnx and to=torch take it as it is"


@dataclass(frozen=True)
class Pipeline:
    """The parts of a pipeline, in the form in which diffusers has them.

    Fields:
        autoencoder, unet: equal to the model's, with whitening, steps and eps as diffusers has them.
        parameterization: what the U-Net predicts.
        log_snr: of the table's steps 0, 1, ...
        condition: the model's.
        kind: the class of diffusers that runs it.
    """

    autoencoder: Autoencoder
    unet: UNet
    parameterization: Parameterization
    log_snr: Tensor
    condition: Unconditional | Label | PaddedText
    kind: str

    def write(self, folder: Path) -> None:
        """Write the directory: whole or not at all."""
        height, width = self.autoencoder.latent_shape[1:]
        with whole_directory(folder) as made:
            vae, first = "vqvae" if self.kind == "LDMPipeline" else "vae", config_of_autoencoder(self.autoencoder)
            write_network(made / vae, first, self.autoencoder, autoencoder_names)
            size = height if height == width or self.kind == "LDMPipeline" else [height, width]
            config = config_of_unet(self.unet) | {"sample_size": size}
            write_network(made / "unet", config, self.unet, unet_names)
            write_json(
                made / "scheduler" / "scheduler_config.json", config_of_scheduler(self.log_snr, self.parameterization)
            )
            own = {vae: first["_class_name"], "unet": config["_class_name"], "scheduler": "DDIMScheduler"}
            index: Config = {"_class_name": self.kind, "_diffusers_version": "0.32.0"}
            index |= {part: ["diffusers", name] for part, name in own.items()}
            if self.kind != "LDMPipeline":
                index |= {part: [None, None] for part in ("safety_checker", "feature_extractor", "image_encoder")}
                index |= {"requires_safety_checker": False} | self._text(made)
            write_json(made / "model_index.json", index)

    def _text(self, made: Path) -> Config:
        """Write what makes the tokens, and the lines of the index for it."""
        condition = self.condition
        if isinstance(condition, PaddedText):
            encoder, tokenizer = condition.encoder, condition.tokenizer
            tokenizer.model_max_length = condition.length
            tokenizer.save_pretrained(made / "tokenizer")
        else:
            label = isinstance(condition, Label)
            encoder = encoder_of(condition.tokens.weight if label else torch.zeros(1, 1))
            tokenizer = tokenizer_of(names_of(condition) if label else [], made / "tokenizer")
        encoder.save_pretrained(made / "text_encoder", safe_serialization=True)
        parts = {"text_encoder": encoder, "tokenizer": tokenizer}
        return {name: ["transformers", type(part).__name__] for name, part in parts.items()}


def names_of(condition: Label) -> list[str]:
    """What the prompt of each label is: its name, or its number where the classes have no names."""
    return list(condition.names) or [str(label) for label in range(condition.classes)]


def pipeline_of(model: LatentModel) -> Pipeline:
    """A model as a pipeline; ForeignModelError names all of it that no pipeline can be."""
    wrong: list[str] = []
    if not isinstance(model.prior, Diffusion):
        wrong.append(f"prior {type(model.prior).__name__}: pipelines are diffusions")
    elif not isinstance(model.prior.denoiser.backbone, UNet):
        wrong.append(_of_backbone(model.prior.denoiser.backbone))
    if not isinstance(model.condition, Unconditional | Label | PaddedText):
        wrong.append(_of_condition(model.condition))
    autoencoder = _tried(wrong, "autoencoder", lambda: _autoencoder(model.autoencoder))
    found = None
    if isinstance(model.prior, Diffusion) and isinstance(model.prior.denoiser.backbone, UNet):
        found = _tried(wrong, "prior", lambda: _denoiser(model.prior, model.condition))
    if wrong:
        raise ForeignModelError(f"no pipeline of diffusers equals this model: {'; '.join(wrong)}")
    unet, parameterization = found
    plain = config_of_unet(unet)["_class_name"] == "UNet2DModel"
    kind = "LDMPipeline" if plain else "StableDiffusionPipeline"
    if not plain and isinstance(model.autoencoder.bottleneck, VectorQuantiser):
        raise ForeignModelError(
            "no pipeline of diffusers equals this model: StableDiffusionPipeline decodes by an AutoencoderKL; a VQModel is of an "
            "LDMPipeline, whose U-Net has neither a condition nor attention"
        )
    log_snr = unet.time.ascending.flip(0)
    return Pipeline(autoencoder, unet, parameterization, log_snr, model.condition, kind)


def _of_backbone(backbone: nn.Module) -> str:
    kind = type(backbone).__name__
    more = "; their DiT embeds the noise level at other frequencies, which no weights change" if kind == "DiT" else ""
    return f"backbone {kind}: their pipelines of latents have a U-Net here{more}; {_ELSEWHERE}"


def _of_condition(condition: Conditioner) -> str:
    kind, own = type(condition).__name__, ""
    if isinstance(condition, Text):
        own = ", and is neither: CLIP attends to what stands before alone, T5 knows positions as distances"
    return (
        f"condition {kind}: a pipeline encodes captions by CLIP or T5 with their padding{own}; train with condition=padded, or "
        f"by label; {_ELSEWHERE}"
    )


def _tried(wrong: list[str], part: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ForeignModelError as error:
        wrong.append(f"{part}: {error}")
        return None


def _autoencoder(autoencoder: Autoencoder) -> Autoencoder:
    """One factor of all channels is a pipeline's own; any other whitening goes into the networks."""
    height, width = autoencoder.image_shape[1:]
    if wrong := [side for side in (height, width) if side % 8]:
        raise ForeignModelError(f"pipelines draw images with sides of multiples of 8; here is one of {wrong[0]}")
    if isinstance(autoencoder.bottleneck, VectorQuantiser):
        return _of_codes(autoencoder)
    config = config_of_autoencoder(autoencoder)
    plain = config["latents_mean"] is None and config["shift_factor"] is None
    return autoencoder if plain else whitened_inside(autoencoder)


def _of_codes(autoencoder: Autoencoder) -> Autoencoder:
    """VQModel has one factor at most, and always 1x1 convolutions around its codes."""
    try:
        own = whitened_inside(autoencoder)
    except ValueError as error:
        raise ForeignModelError(str(error)) from error
    config_of_autoencoder(own)
    return own


def _denoiser(prior: Diffusion, condition: Conditioner) -> tuple[UNet, Parameterization]:
    own, unet, parameterization = prior.denoiser, prior.denoiser.backbone, prior.denoiser.parameterization
    if isinstance(parameterization, Velocity):
        raise ForeignModelError(
            f"parameterization Velocity on the schedule {type(own.schedule).__name__}: their samplers of flows give a network "
            "x_t as it is and 1000 t, and ours is given x_t at unit variance and log SNR, so that no weights make them agree; "
            f"train with diffusion/parameterization=data, or v where variance is preserved; {_ELSEWHERE}"
        )
    if isinstance(parameterization, Karras) and parameterization.sigma_data == 1:
        unet, parameterization = negated(unet), V()
    elif type(parameterization) not in PREDICTIONS.values() or (
        isinstance(parameterization, V) and own.schedule.path is not circle
    ):
        raise ForeignModelError(
            f"parameterization {type(parameterization).__name__} on the schedule {type(own.schedule).__name__}: theirs are "
            "noise and data on any, v where variance is preserved, and karras with sigma_data=1"
        )
    ends = torch.tensor([max(prior.lowest(own.schedule), 1e-3), 1.0], dtype=torch.float64)
    highest, lowest = own.schedule.log_snr(ends).tolist()
    try:
        unet = stepped(with_usual_eps(unet), highest, lowest)
    except ValueError as error:
        raise ForeignModelError(str(error)) from error
    if isinstance(condition, Unconditional) and any(isinstance(each, SpatialTransformer) for each in unet.modules()):
        unet = attending(unet, 1 + ADDED)
    config_of_unet(unet)
    return (wider(unet, ADDED) if isinstance(condition, Label) else unet), parameterization
