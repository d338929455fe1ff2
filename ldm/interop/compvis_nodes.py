"""The nodes of our networks that equal CompVis's, read off the shapes of their tensors, since their files hold no config.

What no tensor says is what all their configs have: groups of 32 channels, with 1e-5 in the residual blocks of a U-Net and 1e-6
elsewhere, no dropout, and no tanh behind the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ldm.build import Config
from ldm.interop.diffusers_config import ForeignModelError, group_node, multipliers_of

Tensors = Mapping[str, Tensor]


def autoencoder_node(theirs: Tensors, image_shape: tuple[int, int, int] | None) -> Config:
    """The node of a first stage, KL or vector-quantised; by default for images of 64 times the factor between
    image and latent."""
    widths = [
        theirs[f"encoder.down.{i}.block.0.conv1.weight"].shape[0]
        for i in range(_count(theirs, r"encoder\.down\.(\d+)\."))
    ]
    counts = {_count(theirs, rf"encoder\.down\.{i}\.block\.(\d+)\.") for i in range(len(widths))}
    if not widths or len(counts) != 1 or theirs["encoder.conv_in.weight"].shape[0] != widths[0]:
        raise ForeignModelError(
            f"a first stage has as many blocks at every level, and begins with the channels of the first; here are "
            f"{sorted(counts)} "
            f"blocks and channels {widths}"
        )
    blocks, channels = counts.pop(), theirs["encoder.conv_in.weight"].shape[1]
    side = 64 * 2 ** (len(widths) - 1)
    parts: Config = {
        "_partial_": True,
        "width": widths[0],
        "multipliers": multipliers_of(widths),
        "middle_attention": "encoder.mid.attn_1.norm.weight" in theirs,
        "attention": [f"encoder.down.{i}.attn.0.norm.weight" in theirs for i in range(len(widths))],
        "mix": True,
        "norm": group_node(32, 1e-6),
    }
    return {
        "_target_": "ldm.autoencoder.autoencoder.Autoencoder",
        "image_shape": list(image_shape or (channels, side, side)),
        "encoder": parts | {"_target_": "ldm.autoencoder.convnet.Encoder", "blocks": blocks},
        "decoder": parts | {"_target_": "ldm.autoencoder.convnet.Decoder", "blocks": blocks + 1},
        "bottleneck": _bottleneck(theirs),
    }


def _bottleneck(theirs: Tensors) -> Config:
    latent, given = theirs["decoder.conv_in.weight"].shape[1], theirs["encoder.conv_out.weight"].shape[0]
    mixed = tuple(theirs["post_quant_conv.weight"].shape[:2])
    if mixed != (latent, latent):
        raise ForeignModelError(
            f"post_quant_conv makes {mixed[0]} channels of {mixed[1]} (z_channels and embed_dim); ours has as many "
            f"before and after"
        )
    if "quantize.embedding.weight" in theirs:
        codes, width = theirs["quantize.embedding.weight"].shape
        return {"_target_": "ldm.autoencoder.quantiser.VectorQuantiser", "codes": codes, "channels": width}
    if given != 2 * latent:
        raise ForeignModelError(
            f"the encoder gives {given} channels for a latent of {latent}: neither a mean and a variance, nor codes"
        )
    return {"_target_": "ldm.autoencoder.bottleneck.DiagonalGaussian", "channels": latent}


def unet_node(theirs: Tensors, heads: int | None, log_snr: list[float]) -> Config:
    """The node (a partial) of a U-Net; no tensor says how many heads it has, so that a caller may have to. `log_snr` is that
    of the table it was trained on."""
    if strange := [name for name in theirs if name.startswith("label_emb.") or name.endswith(".qkv.weight")]:
        raise ForeignModelError(
            f"{strange[0]}: ours has nothing for it; U-Nets with spatial transformers (use_spatial_transformer) can be read"
        )
    if theirs["out.2.weight"].shape[0] != theirs["input_blocks.0.0.weight"].shape[1]:
        raise ForeignModelError("the U-Net gives other channels than it takes; ours gives as many")
    levels = _levels(theirs)
    widths, width = [level[0][0] for level in levels], theirs["input_blocks.0.0.weight"].shape[0]
    if len({len(level) for level in levels}) > 1 or widths[0] != width or any(len(set(level)) > 1 for level in levels):
        raise ForeignModelError(
            f"a U-Net of ours has blocks of one kind and as many at each level, and begins with the channels of the "
            f"first: here are {levels}"
        )
    block = theirs["middle_block.0.emb_layers.1.weight"].shape[0]
    return {
        "_target_": "ldm.backbone.unet.UNet",
        "_partial_": True,
        "width": width,
        "multipliers": multipliers_of(widths),
        "blocks": len(levels[0]),
        "attention": [level[0][1] for level in levels],
        "middle_attention": "middle_block.1.norm.weight" in theirs,
        "depth": _count(theirs, r"middle_block\.1\.transformer_blocks\.(\d+)\.") or 1,
        **_heads(theirs, heads),
        "norm": group_node(32, 1e-5),
        "attention_norm": group_node(32, 1e-6),
        "scale_shift": block == 2 * theirs["middle_block.0.out_layers.0.weight"].shape[0],
        "time": {"_target_": "ldm.nn.embedding.StepEmbedding", "_partial_": True, "log_snr_table": log_snr},
    }


def tokens_of(theirs: Tensors) -> int | None:
    """The width of the tokens that a U-Net attends to; None where it attends to none. Cross-attention without a context is
    a second self-attention in their code, which ours has not."""
    return next((value.shape[1] for name, value in theirs.items() if name.endswith(".attn2.to_k.weight")), None)


def _levels(theirs: Tensors) -> list[list[tuple[int, bool]]]:
    """Of each block on the way down its channels and whether a transformer follows, by level."""
    levels: list[list[tuple[int, bool]]] = [[]]
    for i in range(1, _count(theirs, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in theirs:
            levels.append([])
        elif f"input_blocks.{i}.0.in_layers.2.weight" in theirs:
            channels = theirs[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0]
            levels[-1].append((channels, f"input_blocks.{i}.1.norm.weight" in theirs))
        else:
            raise ForeignModelError(f"input_blocks.{i} is neither a residual block nor a change of resolution")
    return levels


_OF_STABLE_DIFFUSION: dict[int, Config] = {768: {"heads": 8}, 1024: {"head_width": 64}}


def _heads(theirs: Tensors, heads: int | None) -> Config:
    if heads is not None:
        return {"heads": heads}
    tokens = tokens_of(theirs)
    if tokens in _OF_STABLE_DIFFUSION:
        return _OF_STABLE_DIFFUSION[tokens]
    raise ForeignModelError(
        f"no tensor says how many heads its attention has, and tokens of {tokens} channels are not Stable "
        f"Diffusion's (768 or 1024): say heads=N"
    )


def _count(theirs: Tensors, pattern: str) -> int:
    """How many numbers a pattern finds at the beginnings of names: one more than the greatest."""
    found = [int(match[1]) for match in map(re.compile(pattern).match, theirs) if match]
    return max(found) + 1 if found else 0
