"""A UNet2DConditionModel's config of diffusers as a node of ours, and back (see `diffusers_config`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ldm.backbone.unet import Level, UNet
from ldm.build import Config
from ldm.diffusion.denoiser import FARTHEST
from ldm.diffusion.schedule import Table, ZeroTerminalSNR
from ldm.interop.diffusers_config import (
    ForeignModelError,
    group_node,
    groups_of,
    multipliers_of,
    refuse,
    refuse_blocks,
    whole_config,
)
from ldm.nn.attention import SpatialTransformer
from ldm.nn.embedding import StepEmbedding
from ldm.nn.norm import Group
from ldm.nn.resnet import Downsample, ResBlock, Upsample
from ldm.types import ContextShape

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


PLAIN_UNET: Config = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    # These have an effect only with attention or where one of the keys of `USUAL_PLAIN_UNET` has another value.
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "num_train_timesteps": None,
}
"""The defaults of `UNet2DModel`, for the keys that our U-Net has something for."""


USUAL_PLAIN_UNET: Config = {
    "act_fn": "silu",
    "add_attention": False,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""The other keys of `UNet2DModel`, which have to have these values: the defaults, but that there is no attention, which is of
another kind than ours."""

_PLAIN: Config = {"add_attention": False, "flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1}
"""What makes a `UNet2DModel` of blocks without attention the same network as a `UNet2DConditionModel` of such blocks."""


def is_plain(theirs: Mapping[str, Any]) -> bool:
    """Whether this is a config of a `UNet2DModel`, which takes no context."""
    return theirs.get("_class_name") == "UNet2DModel"


def whole_unet(theirs: Mapping[str, Any]) -> Config:
    """The config of a `UNet2DConditionModel` with all defaults filled in; or of a `UNet2DModel` where it says that it is one."""
    if is_plain(theirs):
        return whole_config("UNet2DModel", theirs, PLAIN_UNET | USUAL_PLAIN_UNET | {"add_attention": True})
    return whole_config("UNet2DConditionModel", theirs, UNET | USUAL_UNET)


def context_of(theirs: Mapping[str, Any]) -> ContextShape:
    """The widths of the context that a U-Net of theirs takes."""
    return ContextShape(tokens=None if is_plain(theirs) else whole_unet(theirs)["cross_attention_dim"])


def unet_node(theirs: Mapping[str, Any], schedule: Table | ZeroTerminalSNR) -> Config:
    """The config (a partial) of our U-Net that equals a U-Net of theirs of the given config, trained on `schedule`."""
    plain, theirs = is_plain(theirs), whole_unet(theirs)
    if plain:
        return _plain_node(theirs, schedule)
    refuse(theirs, USUAL_UNET | {"in_channels": theirs["out_channels"]})
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    refuse_blocks(theirs, {"down_block_types": set(down), "up_block_types": set(up)})
    attention = [kind == down[1] for kind in theirs["down_block_types"]]
    if attention != [kind == up[1] for kind in reversed(theirs["up_block_types"])]:
        raise ForeignModelError("this U-Net attends at other levels on its way down than on its way up; ours does not")
    single = ("layers_per_block", "transformer_layers_per_block", "norm_num_groups", "cross_attention_dim")
    if several := [f"{key} is {theirs[key]}" for key in single if not isinstance(theirs[key], int)]:
        raise ForeignModelError(f"one number for all levels is wanted; {'; '.join(several)}")
    return _node(theirs, schedule, attention) | {
        "depth": theirs["transformer_layers_per_block"],
        **_heads(theirs, attention),
        "attention_norm": group_node(theirs["norm_num_groups"], 1e-6),
    }


def _plain_node(theirs: Config, schedule: Table | ZeroTerminalSNR) -> Config:
    refuse(theirs, USUAL_PLAIN_UNET | {"in_channels": theirs["out_channels"]})
    refuse_blocks(theirs, {"down_block_types": {"DownBlock2D"}, "up_block_types": {"UpBlock2D"}})
    return _node(theirs, schedule, [False] * len(theirs["block_out_channels"])) | {"middle_attention": False}


def _node(theirs: Config, schedule: Table | ZeroTerminalSNR, attention: list[bool]) -> Config:
    """What both of their U-Nets have."""
    widths = theirs["block_out_channels"]
    return {
        "_target_": "ldm.backbone.unet.UNet",
        "_partial_": True,
        "width": widths[0],
        "multipliers": multipliers_of(widths),
        "blocks": theirs["layers_per_block"],
        "attention": attention,
        "norm": group_node(theirs["norm_num_groups"], theirs["norm_eps"]),
        "scale_shift": theirs["resnet_time_scale_shift"] == "scale_shift",
        "dropout": theirs["dropout"],
        "time": {
            "_target_": "ldm.nn.embedding.StepEmbedding",
            "_partial_": True,
            "log_snr_table": log_snr_of_steps(schedule),
        },
    }


def log_snr_of_steps(schedule: Table | ZeroTerminalSNR) -> list[float]:
    """Log SNR at their steps 0, 1, ..., clamped as our denoiser clamps it; the last step may be pure noise."""
    table = schedule.schedule if isinstance(schedule, ZeroTerminalSNR) else schedule
    log_snr = schedule.log_snr(torch.arange(1, table.steps + 1, dtype=torch.float64) / table.steps)
    if log_snr[-2] <= -FARTHEST:
        raise ForeignModelError(
            f"step {len(log_snr) - 2} of this schedule has log-SNR {log_snr[-2].item():.1f}, and our denoisers give a network "
            f"nothing below {-FARTHEST:g}"
        )
    return log_snr.clamp(min=-FARTHEST).tolist()


def config_of_unet(unet: UNet) -> Config:
    """The config that equals our U-Net: of a `UNet2DModel` where it has no attention at all, or else of a
    `UNet2DConditionModel`. ForeignModelError, with everything that prevents it, where there is none."""
    if wrong := list(_unlike(unet)):
        raise ForeignModelError(f"no U-Net of diffusers equals ours: {'; '.join(wrong)}")
    first = [level.layers[0] for level in unet.downs]
    residual = nn.ModuleList(module for module in unet.modules() if isinstance(module, ResBlock))
    attends = [layer.transformer is not None for layer in first]
    config = {
        "in_channels": unet.channels,
        "out_channels": unet.channels,
        "block_out_channels": [layer.block.outputs for layer in first],
        "layers_per_block": len(unet.downs[0].layers),
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "norm_num_groups": groups_of(residual, None),
        "norm_eps": unet.norm.eps,
        "resnet_time_scale_shift": "scale_shift" if first[0].block.scale_shift else "default",
    }
    if not _transformers(unet):
        return {"_class_name": "UNet2DModel", **config, **_PLAIN}
    heads = [1 if layer.transformer is None else layer.transformer.heads for layer in first]
    heads[-1] = unet.middle[0].transformer.heads  # their number for the last level is also that for the middle
    return {
        "_class_name": "UNet2DConditionModel",
        **config,
        "cross_attention_dim": unet.context.tokens,
        "transformer_layers_per_block": len(_transformers(unet)[0].blocks),
        "attention_head_dim": heads,
        "use_linear_projection": True,
    }


def _transformers(unet: UNet) -> list[SpatialTransformer]:
    return [module for module in unet.modules() if isinstance(module, SpatialTransformer)]


def _unlike(unet: UNet) -> Iterator[str]:
    """What of our U-Net theirs cannot be, each by its name."""
    if not isinstance(unet.time, StepEmbedding):
        yield "theirs takes an integer step, and this one the log-SNR"
    for setting, here in (
        ("patch", unet.patch > 1),
        ("drawn_context", unet.drawing is not None),
        ("pooled_context", unet.embed_context is not None),
        ("a spatial context", unet.context.spatial is not None),
    ):
        if here:
            yield f"theirs has nothing for {setting}"
    if len({len(level.layers) for level in unet.downs}) > 1:
        yield "theirs has as many blocks at each level"
    changes = [level.resample for level in (*unet.downs, *unet.ups) if level.resample is not None]
    if strange := sorted({type(each).__name__ for each in changes if not isinstance(each, Downsample | Upsample)}):
        yield f"theirs changes resolution by Downsample and Upsample, and this one by {', '.join(strange)}"
    yield from _unlike_attention(unet)


def _unlike_attention(unet: UNet) -> Iterator[str]:
    transformers, middle = _transformers(unet), unet.middle[0].transformer
    if not transformers:
        if unet.context.tokens is not None:
            yield "theirs is told its condition by attention, and this one has none"
        return
    if unet.context.tokens is None:
        yield "theirs attends to tokens of a context, and this one has none"
    if middle is None or len({len(transformer.blocks) for transformer in transformers}) > 1:
        yield "theirs attends in the middle, and everywhere in as many transformer blocks"
    elif any(level.layers[0].transformer for level in unet.downs[-1:]) and _heads_of(unet.downs[-1]) != {middle.heads}:
        yield "theirs has as many heads in the middle as at the last level"
    norms = [transformer.norm for transformer in transformers]
    if not all(isinstance(norm, Group) for norm in norms):
        yield "theirs normalises in groups before attention, too"
    elif {norm.eps for norm in norms} != {1e-6}:
        yield f"theirs adds 1e-06 to variances before attention, and this one {sorted({norm.eps for norm in norms})}"
    elif len({norm.groups for norm in norms}) > 1:
        yield "theirs normalises in as many groups everywhere"


def _heads_of(level: Level) -> set[int]:
    return {layer.transformer.heads for layer in level.layers}


def _heads(theirs: Mapping[str, Any], attention: list[bool]) -> Config:
    """Our heads for their 'attention_head_dim', which despite its name is a number of heads, for all levels or for each. Only
    levels that attend have any, and the last one's are those of the middle."""
    heads, widths = theirs["attention_head_dim"], theirs["block_out_channels"]
    if isinstance(heads, int):
        return {"heads": heads}
    attends = [*attention[:-1], True]
    sizes = {width / count for width, count, here in zip(widths, heads, attends, strict=True) if here}
    if len(sizes) != 1:
        raise ForeignModelError(f"heads {heads} over {widths} channels are of different widths; ours are of one")
    return {"head_width": int(sizes.pop())}
