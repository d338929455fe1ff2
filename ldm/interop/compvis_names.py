"""Which tensors of CompVis's latent diffusion (and taming transformers, and Stable Diffusion before diffusers) are which of ours.

A tensor of ours consists of the rows of one or more of theirs, as in `diffusers_names`, whose names inside a transformer are the
same. Their U-Net counts blocks and changes of resolution through all levels.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.backbone.unet import UNet
from ldm.interop.diffusers_names import TRANSFORMER_NAMES, renamed, split
from ldm.interop.places import Place, places

FIRST_STAGE = "first_stage_model."
UNET = "model.diffusion_model."
AVERAGES = "model_ema."

_BLOCK_NAMES = (
    (r"\.block\.norm1\.", ".0.in_layers.0."),
    (r"\.block\.conv1\.", ".0.in_layers.2."),
    (r"\.block\.embed\.", ".0.emb_layers.1."),
    (r"\.block\.norm2\.", ".0.out_layers.0."),
    (r"\.block\.conv2\.", ".0.out_layers.3."),
    (r"\.block\.shortcut\.", ".0.skip_connection."),
    (r"\.transformer\.", ".1."),
    *TRANSFORMER_NAMES,
    (r"(attn[12])\.to_out\.", r"\1.to_out.0."),
)
_TRUNK_NAMES = (
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.attention\.to_out\.", ".proj_out."),
    (r"\.attention\.", "."),
)


def unet_names(unet: UNet) -> dict[str, list[str]]:
    """For each tensor of our U-Net, the tensors of theirs whose rows it consists of, without `UNET`."""
    rules = [
        *((r"^embed_time\.", "time_embed."), (r"^stem\.", "input_blocks.0.0.")),
        *((r"^norm\.", "out.0."), (r"^head\.", "out.2.")),
        *_down(unet.downs),
        *_up(unet.ups),
        # In the middle block, transformer and block are three modules of one list.
        *((r"^middle\.1\.block\.", "middle_block.2.block."), (r"^middle\.0\.", "middle_block.0.")),
        *_BLOCK_NAMES,
        (r"^middle_block\.0\.1\.", "middle_block.1."),
        (r"^middle_block\.(\d)\.0\.", r"middle_block.\1."),
    ]
    return {ours: split(renamed(ours, rules)) for ours in unet.state_dict()}


def _down(levels: nn.ModuleList) -> Iterator[tuple[str, str]]:
    count = 0
    for i, level in enumerate(levels):
        for j in range(len(level.layers)):
            yield rf"^downs\.{i}\.layers\.{j}\.", f"input_blocks.{(count := count + 1)}."
        if level.resample is not None:
            yield rf"^downs\.{i}\.resample\.conv\.", f"input_blocks.{(count := count + 1)}.0.op."


def _up(levels: nn.ModuleList) -> Iterator[tuple[str, str]]:
    count = -1
    for i, level in enumerate(levels):
        for j in range(len(level.layers)):
            yield rf"^ups\.{i}\.layers\.{j}\.", f"output_blocks.{(count := count + 1)}."
        behind = 1 if level.layers[-1].transformer is None else 2
        yield rf"^ups\.{i}\.resample\.conv\.", f"output_blocks.{count}.{behind}.conv."


def autoencoder_names(autoencoder: Autoencoder) -> dict[str, list[str]]:
    """For each tensor of our autoencoder, the tensors of theirs whose rows it consists of, without `FIRST_STAGE`; those of the
    whitening and of a quantiser's running means have none."""
    rules = [(r"^encoder\.mix\.", "quant_conv."), (r"^decoder\.mix\.", "post_quant_conv.")]
    rules += [(r"^bottleneck\.codebook$", "quantize.embedding.weight")]
    for part in ("encoder", "decoder"):
        rules += [(rf"^{part}\.stem\.", f"{part}.conv_in."), (rf"^{part}\.head\.", f"{part}.conv_out.")]
        rules += [(rf"^{part}\.norm\.", f"{part}.norm_out.")]
        network = autoencoder.get_submodule(part)
        way, lowest = ("down", None) if part == "encoder" else ("up", len(network.widths) - 1)
        for i, place in enumerate(places(network)):
            rules.append((rf"^{part}\.trunk\.{i}\.", f"{part}.{_place(place, way, lowest)}."))
    own = [name for name in autoencoder.state_dict() if name.startswith(("encoder.", "decoder."))]
    own += [name for name in autoencoder.state_dict() if name == "bottleneck.codebook"]
    return {ours: [_single(name) for name in split(renamed(ours, (*rules, *_TRUNK_NAMES)))] for ours in own}


def _place(place: Place, way: str, lowest: int | None) -> str:
    """Their name for the place of a block; of a decoder, whose levels they count from the highest resolution,
    `lowest` is the last."""
    if place.level is None:
        return {"block": f"mid.block_{place.number + 1}", "attention": "mid.attn_1"}[place.kind]
    level = place.level if lowest is None else lowest - place.level
    kinds = {"block": f"block.{place.number}", "attention": f"attn.{place.number}", "resample": f"{way}sample"}
    return f"{way}.{level}.{kinds[place.kind]}"


def _single(name: str) -> str:
    """Queries, keys and values have names of one letter in their autoencoders."""
    return renamed(name, ((r"\.to_(q|k|v)\.", r".\1."),))


def averaged(name: str) -> str:
    """The name of the average of a tensor of their U-Net: without dots, since buffers may have none."""
    return AVERAGES + (UNET.removeprefix("model.") + name).replace(".", "")
