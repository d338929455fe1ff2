"""Where the blocks of our autoencoder's networks stand, for the tables of names of other libraries.

Our trunk is a flat list: of an encoder the levels and then the middle, of a decoder the middle and then the levels. Others have
levels of blocks, attention and a change of resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ldm.autoencoder.convnet import Decoder, Encoder
from ldm.nn.attention import SpatialAttention
from ldm.nn.resnet import ResBlock


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Fields:
        kind: what it is.
        level: counted in the order of the trunk, or None in the middle.
        number: of the blocks or the attentions of this level, or of the middle, the which.
    """

    kind: Literal["block", "attention", "resample"]
    level: int | None
    number: int


def places(part: Encoder | Decoder) -> list[Place]:
    """The place of each module of the trunk, in its order."""
    blocks = list(part.trunk)
    middle = [Place("block", None, 0), Place("block", None, 1)]
    if part.middle_attention:
        middle.insert(1, Place("attention", None, 0))
    encoder, found, level, count = isinstance(part, Encoder), list[Place](), 0, 0
    for block in blocks[: -len(middle)] if encoder else blocks[len(middle) :]:
        if isinstance(block, ResBlock):
            found.append(Place("block", level, count))
            count += 1
        elif isinstance(block, SpatialAttention):
            found.append(Place("attention", level, count - 1))
        else:
            found.append(Place("resample", level, 0))
            level, count = level + 1, 0
    return found + middle if encoder else middle + found
