"""Which tensors of diffusers' networks are which of ours.

A tensor of ours consists of the rows of one or more of theirs: queries, keys and values of the same tokens are one matrix here
and three matrices there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.backbone.unet import UNet
from ldm.interop.places import Place, places

TRANSFORMER_NAMES = (
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
"""Inside a transformer; CompVis's code has the same."""

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
    *TRANSFORMER_NAMES,
)
_BLOCK_NAMES = (
    (r"\.embed\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attn[12]|attentions\.\d+)\.to_out\.", r"\1.to_out.0."),
)


def unet_names(unet: UNet) -> dict[str, list[str]]:
    """For each tensor of our U-Net, the tensors of theirs whose rows it consists of."""
    return {ours: split(renamed(ours, _UNET_NAMES + _BLOCK_NAMES)) for ours in unet.state_dict()}


def autoencoder_names(autoencoder: Autoencoder) -> dict[str, list[str]]:
    """For each tensor of our autoencoder, the tensors of theirs whose rows it consists of; those of the whitening and of how
    codes are trained have none."""
    rules = [
        (r"^bottleneck\.codebook$", "quantize.embedding.weight"),
        (r"^encoder\.mix\.", "quant_conv."),
        (r"^decoder\.mix\.", "post_quant_conv."),
    ]
    for part in ("encoder", "decoder"):
        rules += [(rf"^{part}\.stem\.", f"{part}.conv_in."), (rf"^{part}\.head\.", f"{part}.conv_out.")]
        rules += [(rf"^{part}\.norm\.", f"{part}.conv_norm_out.")]
        way = "down" if part == "encoder" else "up"
        for i, place in enumerate(places(autoencoder.get_submodule(part))):
            rules.append((rf"^{part}\.trunk\.{i}\.", f"{part}.{_place(place, way)}."))
    rules += [
        (r"\.attentions\.(\d+)\.norm\.", r".attentions.\1.group_norm."),
        (r"\.attentions\.(\d+)\.attention\.", r".attentions.\1."),
    ]
    without = ("latent_", "bottleneck.usage", "bottleneck.sums", "bottleneck.updates")
    names = [name for name in autoencoder.state_dict() if not name.startswith(without)]
    return {ours: split(renamed(ours, (*rules, *_BLOCK_NAMES))) for ours in names}


def _place(place: Place, way: str) -> str:
    """Their name for the place of a block."""
    level = "mid_block" if place.level is None else f"{way}_blocks.{place.level}"
    kind = {"block": "resnets", "attention": "attentions", "resample": f"{way}samplers"}[place.kind]
    return f"{level}.{kind}.{place.number}"


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """A name after every rule, a pattern and its replacement, in their order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def split(name: str) -> list[str]:
    """The names of the matrices that a matrix of that name consists of: queries, keys and values."""
    for joint, parts in ((".to_qkv.", (".to_q.", ".to_k.", ".to_v.")), (".to_kv.", (".to_k.", ".to_v."))):
        if joint in name:
            return [name.replace(joint, part) for part in parts]
    return [name]
