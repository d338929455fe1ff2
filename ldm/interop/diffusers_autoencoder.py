"""A config of diffusers' AutoencoderKL or VQModel as a node of ours, and back (see `diffusers_config`).

Both have the same encoder and decoder. A VQModel's latents are vectors before quantisation, as ours are; its decoder quantises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.autoencoder.convnet import Decoder, Encoder
from ldm.autoencoder.quantiser import VectorQuantiser
from ldm.build import Config
from ldm.interop.diffusers_config import (
    ForeignModelError,
    group_node,
    groups_of,
    multipliers_of,
    refuse,
    refuse_blocks,
    sides_of,
    whole_config,
)

AUTOENCODER: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,  # concerns their precision; ours is set at the trainer
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""The defaults of `AutoencoderKL`."""


VQ: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "scaling_factor": 0.18215,
    "norm_type": "group",
    "mid_block_add_attention": True,
    "lookup_from_codebook": False,  # concerns latents that are not quantised
    "force_upcast": False,
}
"""The defaults of `VQModel`."""

_ALWAYS_OF_VQ: Config = {
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}

_DOWN = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
_UP = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
_BLOCKS = {"ResBlock", "Downsample", "Upsample", "SpatialAttention"}


def whole_autoencoder(theirs: Mapping[str, Any]) -> Config:
    """The config of an `AutoencoderKL`, or of a `VQModel` where it says that it is one, with all defaults filled in."""
    if is_quantised(theirs):
        return whole_config("VQModel", theirs, VQ) | _ALWAYS_OF_VQ
    return whole_config("AutoencoderKL", theirs, AUTOENCODER)


def is_quantised(theirs: Mapping[str, Any]) -> bool:
    """Whether this is a config of a `VQModel`."""
    return theirs.get("_class_name") == "VQModel"


def autoencoder_node(theirs: Mapping[str, Any], image_shape: tuple[int, int, int] | None = None) -> Config:
    """The config of our autoencoder that equals an `AutoencoderKL` or a `VQModel` of the given config."""
    quantised, theirs = is_quantised(theirs), whole_autoencoder(theirs)
    widths, layers = theirs["block_out_channels"], theirs["layers_per_block"]
    refuse(theirs, {"act_fn": "silu", "in_channels": theirs["out_channels"]})
    refuse_blocks(theirs, {"down_block_types": set(_DOWN), "up_block_types": set(_UP)})
    attention = [kind == _DOWN[1] for kind in theirs["down_block_types"]]
    if attention != [kind == _UP[1] for kind in reversed(theirs["up_block_types"])]:
        raise ForeignModelError("this decoder attends at other levels than its encoder; ours does not")
    parts: Config = {
        "_partial_": True,
        "width": widths[0],
        "multipliers": multipliers_of(widths),
        "middle_attention": theirs["mid_block_add_attention"],
        "attention": attention,
        "norm": group_node(theirs["norm_num_groups"], 1e-6),
    }
    return {
        "_target_": "ldm.autoencoder.autoencoder.Autoencoder",
        "image_shape": list(image_shape or (theirs["in_channels"], *sides_of(theirs["sample_size"]))),
        "encoder": parts
        | {"_target_": "ldm.autoencoder.convnet.Encoder", "blocks": layers, "mix": theirs["use_quant_conv"]},
        "decoder": parts
        | {"_target_": "ldm.autoencoder.convnet.Decoder", "blocks": layers + 1, "mix": theirs["use_post_quant_conv"]},
        "bottleneck": _codes(theirs) if quantised else _gaussian(theirs),
    }


def _gaussian(theirs: Config) -> Config:
    return {"_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian", "channels": theirs["latent_channels"]}


def _codes(theirs: Config) -> Config:
    channels = theirs["latent_channels"]
    refuse(theirs, {"norm_type": "group"})
    if theirs["vq_embed_dim"] not in (None, channels):
        raise ForeignModelError(
            f"codes have {theirs['vq_embed_dim']} channels and what the decoder is given {channels}; ours has as many"
        )
    return {
        "_target_": "ldm.autoencoder.quantiser.VectorQuantiser",
        "codes": theirs["num_vq_embeddings"],
        "channels": channels,
    }


def latent_statistics(theirs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (c,) each, with which z = (raw - mean) / std is the latent of their pipelines. A scaling
    factor that is null, and not missing, means a factor of 1."""
    theirs = whole_autoencoder(theirs)
    channels, scale = theirs["latent_channels"], theirs["scaling_factor"]
    mean, std, shift = theirs["latents_mean"], theirs["latents_std"], theirs["shift_factor"]
    if scale is not None and scale <= 0:
        raise ForeignModelError(f"scaling_factor is {scale}; wanted a number above 0")
    if (mean is None) != (std is None) or (mean is not None and shift):
        raise ForeignModelError(
            f"latents_mean is {mean}, latents_std {std} and shift_factor {shift}; wanted both of the first, or the last"
        )
    if mean is None:
        mean, std = [shift or 0.0] * channels, [1.0] * channels
    return torch.tensor(mean), torch.tensor(std) / (1.0 if scale is None else scale)


def config_of_autoencoder(autoencoder: Autoencoder) -> Config:
    """The config of an `AutoencoderKL`, or of codes a `VQModel`, that equals our autoencoder; ForeignModelError where there is
    none."""
    encoder, decoder, bottleneck = autoencoder.encoder, autoencoder.decoder, autoencoder.bottleneck
    quantised = isinstance(bottleneck, VectorQuantiser)
    if not (isinstance(encoder, Encoder) and isinstance(decoder, Decoder)) or not (
        quantised or isinstance(bottleneck, DiagonalGaussian)
    ):
        raise ForeignModelError(
            "AutoencoderKL has a convnet Encoder, a Decoder and a DiagonalGaussian bottleneck, and VQModel a VectorQuantiser; "
            "ours differs"
        )
    if (patch := max(encoder.patch, decoder.patch)) > 1:
        raise ForeignModelError(f"AutoencoderKL knows no pixel-unshuffle; patch is {patch} here, not 1")
    if strange := sorted({type(each).__name__ for each in (*encoder.trunk, *decoder.trunk)} - _BLOCKS):
        raise ForeignModelError(
            f"AutoencoderKL is made of {', '.join(sorted(_BLOCKS))}; here is {', '.join(strange)}, too"
        )
    widths, layers = encoder.widths, set(encoder.blocks) | {count - 1 for count in decoder.blocks}
    attention = {encoder.middle_attention, decoder.middle_attention}
    if widths != decoder.widths or len(layers) > 1 or len(attention) > 1 or encoder.attention != decoder.attention:
        raise ForeignModelError(
            "AutoencoderKL's decoder mirrors its encoder, with one block a level more; here widths are "
            f"{widths} and {decoder.widths}, blocks {encoder.blocks} and {decoder.blocks}, attention {encoder.attention} and "
            f"{decoder.attention}"
        )
    channels, height, _ = autoencoder.image_shape
    config = {
        "act_fn": "silu",
        "block_out_channels": list(widths),
        "down_block_types": [_DOWN[attends] for attends in encoder.attention],
        "up_block_types": [_UP[attends] for attends in reversed(encoder.attention)],
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": autoencoder.latent_shape[0],
        "layers_per_block": layers.pop(),
        "mid_block_add_attention": attention.pop(),
        "norm_num_groups": groups_of(autoencoder, 1e-6),
        "sample_size": height,
        **_whitening(autoencoder),
    }
    mixed = {
        "use_quant_conv": isinstance(encoder.mix, nn.Conv2d),
        "use_post_quant_conv": isinstance(decoder.mix, nn.Conv2d),
    }
    if not quantised:
        return {"_class_name": "AutoencoderKL", **config, **mixed}
    own = config | mixed
    if wrong := [f"{key} is {own[key]}" for key, value in _ALWAYS_OF_VQ.items() if own[key] != value]:
        raise ForeignModelError(
            f"VQModel has 1x1 convolutions around its codes and one factor of all channels; here {', '.join(wrong)}"
        )
    kept = {key: value for key, value in config.items() if key in VQ}
    return {"_class_name": "VQModel", **kept, "num_vq_embeddings": autoencoder.code_count}


def _whitening(autoencoder: Autoencoder) -> Config:
    """Their keys for our whitening: one number where all channels have the same, else one for each channel."""
    mean, std = autoencoder.latent_mean.tolist(), autoencoder.latent_std.tolist()
    if len(set(mean)) == len(set(std)) == 1:
        return {
            "scaling_factor": 1 / std[0],
            "shift_factor": mean[0] or None,
            "latents_mean": None,
            "latents_std": None,
        }
    return {"scaling_factor": 1.0, "shift_factor": None, "latents_mean": mean, "latents_std": std}
