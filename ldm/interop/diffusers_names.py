"""Which tensors of diffusers' networks are which of ours.

A tensor of ours consists of the rows of one or more of theirs: queries, keys and values of the same tokens are one matrix here
and three matrices there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.backbone.unet import UNet
from ldm.nn.resnet import Downsample, ResBlock, Upsample

_UNET_NAMES = (
    (r"^embed_time\.0\.", "time_embedding.linear_1."),
    (r"^embed_time\.2\.", "time_embedding.linear_2."),
    (r"^stem\.", "conv_in."),
    (r"^norm\.", "conv_norm_out."),
    (r"^head\.", "conv_out."),
    (r"^(down|up)s\.(\d+)\.layers\.(\d+)\.block\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)s\.(\d+)\.layers\.(\d+)\.transformer\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)s\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^middle\.(\d+)\.block\.", r"mid_block.resnets.\1."),
    (r"^middle\.(\d+)\.transformer\.", r"mid_block.attentions.\1."),
    (r"\.blocks\.(\d+)\.", r".transformer_blocks.\1."),
    (r"\.self_norm\.", ".norm1."),
    (r"\.cross_norm\.", ".norm2."),
    (r"\.feed_norm\.", ".norm3."),
    (r"\.self_attention\.", ".attn1."),
    (r"\.cross_attention\.", ".attn2."),
    (r"\.feed\.to_hidden\.", ".ff.net.0.proj."),
    (r"\.feed\.to_out\.", ".ff.net.2."),
    (r"\.to_tokens\.", ".proj_in."),
    (r"\.to_pixels\.", ".proj_out."),
)
_BLOCK_NAMES = (
    (r"\.embed\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attn[12]|attentions\.0)\.to_out\.", r"\1.to_out.0."),
)


def unet_names(unet: UNet) -> dict[str, list[str]]:
    """For each tensor of our U-Net, the tensors of theirs whose rows it consists of."""
    return {ours: _split(_rename(ours, _UNET_NAMES + _BLOCK_NAMES)) for ours in unet.state_dict()}


def autoencoder_names(autoencoder: Autoencoder) -> dict[str, list[str]]:
    """For each tensor of our autoencoder, the tensors of theirs whose rows it consists of; those of the whitening have none."""
    rules = [(r"^encoder\.mix\.", "quant_conv."), (r"^decoder\.mix\.", "post_quant_conv.")]
    for part in ("encoder", "decoder"):
        rules += [(rf"^{part}\.stem\.", f"{part}.conv_in."), (rf"^{part}\.head\.", f"{part}.conv_out.")]
        rules += [(rf"^{part}\.norm\.", f"{part}.conv_norm_out.")]
        for i, place in enumerate(_places(autoencoder.get_submodule(f"{part}.trunk").children(), part == "encoder")):
            rules.append((rf"^{part}\.trunk\.{i}\.", f"{part}.{place}."))
    rules += [
        (r"\.attentions\.0\.norm\.", ".attentions.0.group_norm."),
        (r"\.attentions\.0\.attention\.", ".attentions.0."),
    ]
    names = [name for name in autoencoder.state_dict() if not name.startswith("latent_")]
    return {ours: _split(_rename(ours, (*rules, *_BLOCK_NAMES))) for ours in names}


def _places(trunk: Iterable[nn.Module], encoder: bool) -> list[str]:
    """Their names for the blocks of our trunk, which is a flat list: the levels and then the middle, or for a decoder the
    middle and then the levels."""
    blocks = list(trunk)
    middle = 3 if any(not isinstance(b, ResBlock | Downsample | Upsample) for b in blocks) else 2
    names = ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"][:: 1 if middle == 3 else 2]
    places, level, count, way = [], 0, 0, "down" if encoder else "up"
    for block in blocks[:-middle] if encoder else blocks[middle:]:
        if isinstance(block, ResBlock):
            places.append(f"{way}_blocks.{level}.resnets.{count}")
            count += 1
        else:
            places.append(f"{way}_blocks.{level}.{way}samplers.0")
            level, count = level + 1, 0
    return places + names if encoder else names + places


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _split(name: str) -> list[str]:
    for joint, parts in ((".to_qkv.", (".to_q.", ".to_k.", ".to_v.")), (".to_kv.", (".to_k.", ".to_v."))):
        if joint in name:
            return [name.replace(joint, part) for part in parts]
    return [name]
