"""The networks that are compared, of diffusers and ours, with the same weights: what the benchmarks share."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from ldm.interop.diffusers import autoencoder_from_diffusers, unet_from_diffusers


@dataclass(frozen=True)
class Size:
    """
    Fields:
        side, channels, blocks, attention, heads: of a U-Net on latents of 4 x side x side, by level.
        tokens, width: of the context that every attention reads.
        image, features: of an autoencoder of images of 3 x image x image, by level.
        batch: of latents and of images.
    """

    side: int
    channels: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    heads: int | tuple[int, ...]
    tokens: int
    width: int
    image: int
    features: tuple[int, ...]
    batch: int


SIZES = {
    "tiny": Size(8, (32, 32), 1, (True, True), 2, 4, 32, 16, (32, 32), 2),
    "small": Size(16, (64, 128), 1, (True, True), 8, 16, 128, 32, (32, 64, 128), 32),
    # conf/experiment/ldm_coco.yaml: heads of 64 channels, Stable Diffusion's first stage.
    "ldm_coco": Size(
        32, (192, 384, 576, 768), 2, (True, True, True, False), (3, 6, 9, 12), 77, 512, 256, (128, 256, 512, 512), 64
    ),
}


class Unets:
    """A U-Net of diffusers and ours with its weights, as many of either as are asked for."""

    def __init__(self, size: Size):
        downs = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in size.attention]
        ups = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(size.attention)]
        model = UNet2DConditionModel(
            sample_size=size.side,
            in_channels=4,
            out_channels=4,
            block_out_channels=size.channels,
            layers_per_block=size.blocks,
            cross_attention_dim=size.width,
            attention_head_dim=size.heads,
            down_block_types=tuple(downs),
            up_block_types=tuple(ups),
        )
        self._folder = Path(tempfile.mkdtemp())
        model.save_pretrained(self._folder)

    def theirs(self) -> nn.Module:
        return UNet2DConditionModel.from_pretrained(self._folder)

    def ours(self) -> nn.Module:
        return unet_from_diffusers(self._folder)


class Autoencoders:
    """A KL autoencoder of diffusers and ours with its weights, as many of either as are asked for."""

    def __init__(self, size: Size):
        levels, blocks = len(size.features), 2 if size.image > 32 else 1
        model = AutoencoderKL(
            block_out_channels=size.features,
            layers_per_block=blocks,
            latent_channels=4,
            sample_size=size.image,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
        self._folder = Path(tempfile.mkdtemp())
        model.save_pretrained(self._folder)

    def theirs(self) -> nn.Module:
        return AutoencoderKL.from_pretrained(self._folder)

    def ours(self) -> nn.Module:
        return autoencoder_from_diffusers(self._folder)


PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The precision as Lightning's trainer names it."""
    kind = PRECISIONS[precision]
    return contextlib.nullcontext() if kind is None else torch.autocast(device.type, kind)


def scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Of the loss in float16; in any other precision it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
