"""What the translations of diffusers' configs share, of `AutoencoderKL` (`diffusers_autoencoder`) and of `UNet2DConditionModel`
(`diffusers_unet`), to our configs and back.

What one of the libraries cannot represent is refused with the name of the setting, and never approximated. A key that is
missing in a config has the default of diffusers' class: configs of early models lack most of the later keys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from ldm.build import Config
from ldm.nn.norm import Group
from ldm.nn.resnet import ResBlock

log = logging.getLogger(__name__)


class ForeignModelError(ValueError):
    """No model of the other library equals this one; the message says which setting prevents it."""


def whole_config(kind: str, theirs: Mapping[str, Any], defaults: Config) -> Config:
    """Their config with diffusers' defaults where it says nothing; a key that diffusers ignores is ignored, and named."""
    if theirs.get("_class_name", kind) != kind:
        raise ForeignModelError(f"this is a config of {theirs['_class_name']}; wanted one of {kind}")
    if unknown := sorted(key for key in theirs.keys() - defaults.keys() if not key.startswith("_")):
        log.warning("%s has no %s: ignored, as diffusers ignores it", kind, ", ".join(unknown))
    return defaults | dict(theirs)


def groups_of(module: nn.Module, eps: float | None) -> int:
    """The number of groups of every normalisation."""
    blocks = [block for block in module.modules() if isinstance(block, ResBlock)]
    norms = [norm for block in blocks for norm in (block.norm1, block.norm2)]
    found = {(norm.groups, norm.eps) if isinstance(norm, Group) else type(norm).__name__ for norm in norms}
    if len(found) != 1 or isinstance(only := found.pop(), str) or eps not in (None, only[1]):
        raise ForeignModelError(
            f"diffusers normalises in groups, as many everywhere, with eps {eps or 'one'}; not so here"
        )
    return only[0]


def refuse(theirs: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """ForeignModelError where a setting is not the one that ours has."""
    same = {"swish": "silu"}  # two names of one function
    wrong = [
        f"{key} is {theirs[key]}, not {value}"
        for key, value in usual.items()
        if same.get(theirs[key], theirs[key]) != value
    ]
    if wrong:
        raise ForeignModelError(f"ours cannot be equal to this model: {'; '.join(wrong)}")


def refuse_blocks(theirs: Mapping[str, Any], known: Mapping[str, set[str]]) -> None:
    """ForeignModelError where a list of blocks holds one that ours has not, or is of another length than the widths."""
    for key, kinds in known.items():
        if strange := sorted(set(theirs[key]) - kinds):
            raise ForeignModelError(f"{key} holds {', '.join(strange)}; ours knows {', '.join(sorted(kinds))}")
        if len(theirs[key]) != len(theirs["block_out_channels"]):
            raise ForeignModelError(
                f"{key} names {len(theirs[key])} blocks and block_out_channels {theirs['block_out_channels']}; "
                "wanted as many"
            )


def multipliers_of(widths: list[int]) -> list[int]:
    """The widths of the levels as multiples of the first."""
    if any(width % widths[0] for width in widths):
        raise ForeignModelError(f"block_out_channels {widths} are not multiples of the first, as ours are")
    return [width // widths[0] for width in widths]


def sides_of(size: int | list[int]) -> list[int]:
    """Height and width of a size that may be one number."""
    return [size, size] if isinstance(size, int) else list(size)


def group_node(groups: int, eps: float) -> Config:
    """The node of a normalisation in groups."""
    return {"_target_": "ldm.nn.norm.Group", "_partial_": True, "groups": groups, "eps": eps}
