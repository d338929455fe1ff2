"""Residual blocks of feature maps and the changes of resolution between them.

A block is x + conv(silu(norm(conv(silu(norm(x))) + embedding))) (arXiv 2006.11239, appendix B); with `scale_shift` the
embedding enters as norm(h) (1 + scale) + shift (arXiv 2105.05233, section 3, "adaptive group normalization").

Where pixels come out of channels (`torch.nn.functional.pixel_shuffle`), each of the places in a cell has weights of its own,
and with independent first weights young networks lay a checkerboard of that period on their pictures. So these
convolutions begin with the same weights for all places of a cell, as if a smaller picture were enlarged by repetition
("ICNR": Aitken et al. 2017, Checkerboard artifact free sub-pixel convolution, arXiv 1707.02937, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.norm import Group, Norm
from ldm.types import Probability

Resample: TypeAlias = Callable[[int, int], nn.Module]
"""What makes a change of resolution from (inputs, channels of the next level), and says the `outputs` it has: one of
the classes below, or a partial."""


class ResBlock(nn.Module):
    """A residual block (b, inputs, h, w) -> (b, outputs, h, w).

    Arguments:
        embedding: width of a vector per example that every pixel is told, or None.
        scale_shift: whether it scales and shifts the second normalisation, or is added before it.
    """

    def __init__(
        self,
        inputs: PositiveInt,
        outputs: PositiveInt,
        embedding: PositiveInt | None = None,
        *,
        norm: Norm = Group,
        scale_shift: bool = False,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        self.outputs, self.scale_shift = outputs, scale_shift
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = None if embedding is None else nn.Linear(embedding, (1 + scale_shift) * outputs)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def start_as_identity(self) -> None:
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(
        self, x: Float[Tensor, "b i h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.embed is None:
            h = self.norm2(h)
        else:
            modulation = self.embed(F.silu(embedding))[:, :, None, None]
            if self.scale_shift:
                scale, shift = modulation.chunk(2, dim=1)
                h = self.norm2(h) * (1 + scale) + shift
            else:
                h = self.norm2(h + modulation)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class Downsample(nn.Module):
    """Half the resolution by a 3x3 convolution of stride 2, which keeps the number of channels.

    Arguments:
        wanted: channels of the next level, which its first block changes to.
        pad_all_sides: as in U-Nets; without, one pixel at the right and bottom only, as in autoencoders.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt, pad_all_sides: bool = True):
        super().__init__()
        self.outputs, self.pad_all_sides = inputs, pad_all_sides
        self.conv = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1 if pad_all_sides else 0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(x if self.pad_all_sides else F.pad(x, (0, 1, 0, 1)))


class Unshuffle(nn.Module):
    """Half the resolution: each 2x2 pixels become channels, mixed to the number wanted. Cheaper than `Downsample`.

    Arguments:
        inputs, wanted: channels of this level and of the next; the network says them.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = wanted
        self.conv = nn.Conv2d(4 * inputs, wanted, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return self.conv(F.pixel_unshuffle(x, 2))


class Upsample(nn.Module):
    """Twice the resolution: each pixel repeated, then a 3x3 convolution, which keeps the number of channels.

    Of the nine products per output pixel only four meet different input pixels, so the same function is a transposed
    convolution of stride 2 whose 4x4 kernel is the 3x3 one summed over the repetitions: 4/9 of the work, and the
    repeated map is never made. On a CPU a step forward and back takes 0.45 to 0.6 of the time.

    Arguments:
        wanted: channels of the next level, which its first block changes to.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = inputs
        self.conv = nn.Conv2d(inputs, inputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        flipped = self.conv.weight.flip(2, 3).transpose(0, 1)
        kernel = sum(F.pad(flipped, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1))
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


@torch.no_grad()
def start_as_repetition(conv: nn.Conv2d, factor: int) -> None:
    """Before a pixel shuffle by `factor`: the same first weights for all factor^2 places of a cell."""
    for weights in (conv.weight, conv.bias):
        weights.copy_(weights[:: factor**2].repeat_interleave(factor**2, dim=0))


class Shuffle(nn.Module):
    """Twice the resolution: each pixel is mixed to 2x2 pixels of the channels wanted. Cheaper than `Upsample`.

    Arguments:
        inputs, wanted: channels of this level and of the next; the network says them.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = wanted
        self.conv = nn.Conv2d(inputs, 4 * wanted, 1)
        start_as_repetition(self.conv, 2)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return F.pixel_shuffle(self.conv(x), 2)
