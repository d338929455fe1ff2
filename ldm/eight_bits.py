"""The one rule by which images of floating-point numbers are rounded to 8 bits, to be shown, stored as PNG and measured."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from ldm.types import Image


def eight_bits(x: Image) -> UInt8[Tensor, "b 3 h w"]:
    """Images x in [-1, 1] with 1, 3 or 4 channels as 8-bit RGB images; grey is repeated, and alpha composited on white.

    Numbers outside of [-1, 1] are clamped, and NaN becomes mid grey. Raises ValueError for another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3, 4):
        raise ValueError(f"wanted images (b, 1 | 3 | 4, h, w) in [-1, 1], got shape {tuple(x.shape)}")
    x = x.float().nan_to_num(0.0).clamp(-1, 1)
    if x.shape[1] == 4:
        alpha = (x[:, 3:] + 1) / 2
        x = x[:, :3] * alpha + (1 - alpha)
    return ((x + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
