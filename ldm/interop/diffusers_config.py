"""The configs of diffusers' `AutoencoderKL` and `UNet2DConditionModel`, translated to our configs and back.

What one of the libraries cannot represent is refused with the name of the setting, and never approximated. A key that is
missing in a config has the default of diffusers' class: configs of early models lack most of the later keys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.autoencoder.bottleneck import DiagonalGaussian
from ldm.autoencoder.convnet import Decoder, Encoder
from ldm.backbone.unet import UNet
from ldm.build import Config
from ldm.diffusion.denoiser import FARTHEST
from ldm.diffusion.schedule import Table, ZeroTerminalSNR
from ldm.nn.attention import SpatialTransformer
from ldm.nn.embedding import StepEmbedding
from ldm.nn.norm import Group
from ldm.nn.resnet import ResBlock

log = logging.getLogger(__name__)


class ForeignModelError(ValueError):
    """No model of the other library equals this one; the message says which setting prevents it."""


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

UNET: Config = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "use_linear_projection": False,  # both are linear maps
    "upcast_attention": False,  # concerns their precision
    "resnet_time_scale_shift": "default",
    # These have an effect only where one of the keys of `USUAL_UNET` has another value.
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "projection_class_embeddings_input_dim": None,
}
"""The defaults of `UNet2DConditionModel`, for the keys that our U-Net has something for."""

USUAL_UNET: Config = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""The other keys of `UNet2DConditionModel`, which have to have these values, the defaults."""


def whole_autoencoder(theirs: Mapping[str, Any]) -> Config:
    """The config of an `AutoencoderKL` with all defaults filled in."""
    return _whole("AutoencoderKL", theirs, AUTOENCODER)


def whole_unet(theirs: Mapping[str, Any]) -> Config:
    """The config of a `UNet2DConditionModel` with all defaults filled in."""
    return _whole("UNet2DConditionModel", theirs, UNET | USUAL_UNET)


def _whole(kind: str, theirs: Mapping[str, Any], defaults: Config) -> Config:
    if theirs.get("_class_name", kind) != kind:
        raise ForeignModelError(f"this is a config of {theirs['_class_name']}; wanted one of {kind}")
    if unknown := sorted(key for key in theirs.keys() - defaults.keys() if not key.startswith("_")):
        log.warning("%s has no %s: ignored, as diffusers ignores it", kind, ", ".join(unknown))
    return defaults | dict(theirs)


def autoencoder_node(theirs: Mapping[str, Any], image_shape: tuple[int, int, int] | None = None) -> Config:
    """The config of our autoencoder that equals an `AutoencoderKL` of the given config."""
    theirs = whole_autoencoder(theirs)
    widths, layers = theirs["block_out_channels"], theirs["layers_per_block"]
    _refuse(theirs, {"act_fn": "silu", "in_channels": theirs["out_channels"]})
    _refuse_blocks(theirs, {"down_block_types": {"DownEncoderBlock2D"}, "up_block_types": {"UpDecoderBlock2D"}})
    parts: Config = {
        "_partial_": True,
        "width": widths[0],
        "multipliers": _multipliers(widths),
        "middle_attention": theirs["mid_block_add_attention"],
        "norm": _group_node(theirs["norm_num_groups"], 1e-6),
    }
    return {
        "_target_": "ldm.autoencoder.autoencoder.Autoencoder",
        "image_shape": list(image_shape or (theirs["in_channels"], *_sides(theirs["sample_size"]))),
        "encoder": parts
        | {"_target_": "ldm.autoencoder.convnet.Encoder", "blocks": layers, "mix": theirs["use_quant_conv"]},
        "decoder": parts
        | {"_target_": "ldm.autoencoder.convnet.Decoder", "blocks": layers + 1, "mix": theirs["use_post_quant_conv"]},
        "bottleneck": {
            "_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian",
            "channels": theirs["latent_channels"],
        },
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


def unet_node(theirs: Mapping[str, Any], schedule: Table | ZeroTerminalSNR) -> Config:
    """The config (a partial) of our U-Net that equals a `UNet2DConditionModel` of the given config, trained on `schedule`."""
    theirs = whole_unet(theirs)
    _refuse(theirs, USUAL_UNET | {"in_channels": theirs["out_channels"]})
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    _refuse_blocks(theirs, {"down_block_types": set(down), "up_block_types": set(up)})
    attention = [kind == down[1] for kind in theirs["down_block_types"]]
    if attention != [kind == up[1] for kind in reversed(theirs["up_block_types"])]:
        raise ForeignModelError("this U-Net attends at other levels on its way down than on its way up; ours does not")
    single = ("layers_per_block", "transformer_layers_per_block", "norm_num_groups", "cross_attention_dim")
    if several := [f"{key} is {theirs[key]}" for key in single if not isinstance(theirs[key], int)]:
        raise ForeignModelError(f"one number for all levels is wanted; {'; '.join(several)}")
    widths = theirs["block_out_channels"]
    return {
        "_target_": "ldm.backbone.unet.UNet",
        "_partial_": True,
        "width": widths[0],
        "multipliers": _multipliers(widths),
        "blocks": theirs["layers_per_block"],
        "attention": attention,
        "depth": theirs["transformer_layers_per_block"],
        **_heads(theirs, widths),
        "norm": _group_node(theirs["norm_num_groups"], theirs["norm_eps"]),
        "attention_norm": _group_node(theirs["norm_num_groups"], 1e-6),
        "scale_shift": theirs["resnet_time_scale_shift"] == "scale_shift",
        "dropout": theirs["dropout"],
        "time": {
            "_target_": "ldm.nn.embedding.StepEmbedding",
            "_partial_": True,
            "log_snr_table": _log_snr_of_steps(schedule),
        },
    }


def _log_snr_of_steps(schedule: Table | ZeroTerminalSNR) -> list[float]:
    """Log SNR at their steps 0, 1, ..., clamped as our denoiser clamps it; the last step may be pure noise."""
    table = schedule.schedule if isinstance(schedule, ZeroTerminalSNR) else schedule
    log_snr = schedule.log_snr(torch.arange(1, table.steps + 1, dtype=torch.float64) / table.steps)
    if log_snr[-2] <= -FARTHEST:
        raise ForeignModelError(
            f"step {len(log_snr) - 2} of this schedule has log-SNR {log_snr[-2].item():.1f}, and our denoisers give a network "
            f"nothing below {-FARTHEST:g}"
        )
    return log_snr.clamp(min=-FARTHEST).tolist()


def config_of_autoencoder(autoencoder: Autoencoder) -> Config:
    """The config of an `AutoencoderKL` that equals our autoencoder; ForeignModelError where there is none."""
    encoder, decoder, bottleneck = autoencoder.encoder, autoencoder.decoder, autoencoder.bottleneck
    if not (isinstance(encoder, Encoder) and isinstance(decoder, Decoder) and isinstance(bottleneck, DiagonalGaussian)):
        raise ForeignModelError(
            "AutoencoderKL has a convnet Encoder, a Decoder and a DiagonalGaussian bottleneck; ours differs"
        )
    if encoder.patch > 1:
        raise ForeignModelError(f"AutoencoderKL knows no pixel-unshuffle; patch is {encoder.patch} here, not 1")
    widths, layers = encoder.widths, set(encoder.blocks) | {count - 1 for count in decoder.blocks}
    attention = {encoder.middle_attention, decoder.middle_attention}
    if widths != decoder.widths or len(layers) > 1 or len(attention) > 1:
        raise ForeignModelError(
            "AutoencoderKL's decoder mirrors its encoder, with one block a level more; here widths are "
            f"{widths} and {decoder.widths}, blocks {encoder.blocks} and {decoder.blocks}"
        )
    channels, height, _ = autoencoder.image_shape
    levels = len(widths)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": autoencoder.latent_shape[0],
        "layers_per_block": layers.pop(),
        "mid_block_add_attention": attention.pop(),
        "norm_num_groups": _groups(autoencoder, 1e-6),
        "sample_size": height,
        "use_quant_conv": isinstance(encoder.mix, nn.Conv2d),
        "use_post_quant_conv": isinstance(decoder.mix, nn.Conv2d),
        **_whitening(autoencoder),
    }


def config_of_unet(unet: UNet) -> Config:
    """The config of a `UNet2DConditionModel` that equals our U-Net; ForeignModelError where there is none."""
    if not isinstance(unet.time, StepEmbedding):
        raise ForeignModelError("UNet2DConditionModel takes an integer step; this U-Net takes the log-SNR")
    other = unet.embed_context is not None or unet.drawing is not None or unet.context.spatial
    if unet.patch > 1 or other or unet.context.tokens is None:
        raise ForeignModelError(
            "UNet2DConditionModel reads its context by attention to tokens only (none pooled, drawn or spatial), and no patches"
        )
    first = [level.layers[0] for level in unet.downs]
    counts, attended = {len(level.layers) for level in unet.downs}, [layer.transformer for layer in first]
    transformers = [module for module in unet.modules() if isinstance(module, SpatialTransformer)]
    depths = {len(transformer.blocks) for transformer in transformers}
    if len(counts) > 1 or len(depths) != 1 or unet.middle[0].transformer is None:
        raise ForeignModelError("UNet2DConditionModel here has as many blocks at each level, and attends in the middle")
    heads = [1 if t is None else t.heads for t in attended]
    heads[-1] = unet.middle[0].transformer.heads  # their number for the last level is also that for the middle
    attends = [t is not None for t in attended]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet.channels,
        "out_channels": unet.channels,
        "block_out_channels": [layer.block.outputs for layer in first],
        "layers_per_block": counts.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "cross_attention_dim": unet.context.tokens,
        "transformer_layers_per_block": depths.pop(),
        "attention_head_dim": heads,
        "norm_num_groups": _groups(nn.ModuleList(m for m in unet.modules() if isinstance(m, ResBlock)), None),
        "norm_eps": unet.norm.eps,
        "resnet_time_scale_shift": "scale_shift" if first[0].block.scale_shift else "default",
        "use_linear_projection": True,
    }


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


def _groups(module: nn.Module, eps: float | None) -> int:
    """The number of groups of every normalisation."""
    blocks = [block for block in module.modules() if isinstance(block, ResBlock)]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)]
    found = {(norm.groups, norm.eps) if isinstance(norm, Group) else type(norm).__name__ for norm in norms}
    if len(found) != 1 or isinstance(only := found.pop(), str) or eps not in (None, only[1]):
        raise ForeignModelError(
            f"diffusers normalises in groups, as many everywhere, with eps {eps or 'one'}; not so here"
        )
    return only[0]


def _refuse(theirs: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    same = {"swish": "silu"}  # two names of one function
    wrong = [
        f"{key} is {theirs[key]}, not {value}"
        for key, value in usual.items()
        if same.get(theirs[key], theirs[key]) != value
    ]
    if wrong:
        raise ForeignModelError(f"ours cannot be equal to this model: {'; '.join(wrong)}")


def _refuse_blocks(theirs: Mapping[str, Any], known: Mapping[str, set[str]]) -> None:
    for key, kinds in known.items():
        if strange := sorted(set(theirs[key]) - kinds):
            raise ForeignModelError(f"{key} holds {', '.join(strange)}; ours knows {', '.join(sorted(kinds))}")
        if len(theirs[key]) != len(theirs["block_out_channels"]):
            raise ForeignModelError(
                f"{key} names {len(theirs[key])} blocks and block_out_channels {theirs['block_out_channels']}; "
                "wanted as many"
            )


def _multipliers(widths: list[int]) -> list[int]:
    if any(width % widths[0] for width in widths):
        raise ForeignModelError(f"block_out_channels {widths} are not multiples of the first, as ours are")
    return [width // widths[0] for width in widths]


def _sides(size: int | list[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _group_node(groups: int, eps: float) -> Config:
    return {"_target_": "ldm.nn.norm.Group", "_partial_": True, "groups": groups, "eps": eps}


def _heads(theirs: Mapping[str, Any], widths: list[int]) -> Config:
    """Our heads for their 'attention_head_dim', which despite its name is a number of heads, for all levels or for each."""
    heads = theirs["attention_head_dim"]
    if isinstance(heads, int):
        return {"heads": heads}
    sizes = {width / count for width, count in zip(widths, heads, strict=True)}
    if len(sizes) != 1:
        raise ForeignModelError(f"heads {heads} over {widths} channels are of different widths; ours are of one")
    return {"head_width": int(sizes.pop())}
