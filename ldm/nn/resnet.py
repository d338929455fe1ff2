"""Residual blocks of feature maps and the changes of resolution between them.

A block is x + conv(silu(norm(conv(silu(norm(x))) + embedding))) (Ho et al. 2020, appendix B); with `scale_shift` the
embedding enters as norm(h) (1 + scale) + shift (Dhariwal and Nichol 2021, section 3, "adaptive group normalization").

A pixel shuffle (`torch.nn.functional.pixel_shuffle`) makes a cell of f x f pixels from f^2 channels of one pixel, and each
pixel of the cell has weights of its own in the convolution before it. If these begin as independent random numbers, young
networks lay a checkerboard of period f over their images. So they begin with the same weights for all pixels of a cell,
which is the same as enlarging a smaller image by repeating its pixels (ICNR, Aitken et al. 2017, section 3).

Sources:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), arXiv 2105.05233
    Aitken et al., Checkerboard Artifact Free Sub-Pixel Convolution (2017), arXiv 1707.02937
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
"""Makes a change of resolution, given its input channels and the channels of the next level: one of the classes below, or a
partial of one. The module has its output channels as `outputs`."""


class ResBlock(nn.Module):
    """A residual block from maps (b, inputs, h, w) to maps (b, outputs, h, w).

    Arguments:
        inputs, outputs: numbers of channels.
        embedding: width of the embedding, a vector for each example that conditions all pixels alike; None for none.
        norm: makes a normalisation, given the number of channels.
        scale_shift: whether the embedding gives scale and shift of the second normalisation, or is added before it.
        dropout: share of the activations that are left out in training.
        kernel: side of the two convolutions, odd; 1 for maps of one pixel.
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
        kernel: PositiveInt = 3,
    ):
        super().__init__()
        self.outputs, self.scale_shift = outputs, scale_shift
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.embed = None if embedding is None else nn.Linear(embedding, (1 + scale_shift) * outputs)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def start_as_identity(self) -> None:
        """Set the last convolution of the residual branch to zero."""
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(
        self, x: Float[Tensor, "b i h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """A map (b, inputs, h, w) to a map (b, outputs, h, w), given the embedding (b, embedding), if the block takes one."""
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
        inputs: channels of this level.
        wanted: channels of the next level. They are not used: the first block of that level changes to them.
        pad_all_sides: whether to pad one pixel at all sides, as in U-Nets, or at the right and the bottom only, as in
            autoencoders.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt, pad_all_sides: bool = True):
        super().__init__()
        self.outputs, self.pad_all_sides = inputs, pad_all_sides
        self.conv = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1 if pad_all_sides else 0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """A map (b, c, h, w) to one of half the height and width."""
        return self.conv(x if self.pad_all_sides else F.pad(x, (0, 1, 0, 1)))


class Unshuffle(nn.Module):
    """Half the resolution: 2x2 pixels become channels, and a 1x1 convolution mixes them to the number that the next level
    has. It is cheaper than `Downsample`.

    Arguments:
        inputs, wanted: channels of this level and of the next; the network gives them.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = wanted
        self.conv = nn.Conv2d(4 * inputs, wanted, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """A map (b, i, h, w) to one of half the height and width."""
        return self.conv(F.pixel_unshuffle(x, 2))


class Upsample(nn.Module):
    """Twice the resolution: each pixel repeated, then a 3x3 convolution, which keeps the number of channels.

    Only four of the nine products for an output pixel are with different input pixels. So the same function is computed as a
    transposed convolution of stride 2, whose 4x4 kernel is the 3x3 kernel summed over the repetitions. This is 4/9 of the
    work, and the repeated map is never made. On a CPU, forward and backward pass take 0.45 to 0.6 of the time.

    Arguments:
        inputs: channels of this level.
        wanted: channels of the next level. They are not used: the first block of that level changes to them.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = inputs
        self.conv = nn.Conv2d(inputs, inputs, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """A map (b, c, h, w) to one of twice the height and width."""
        flipped = self.conv.weight.flip(2, 3).transpose(0, 1)
        kernel = sum(F.pad(flipped, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1))
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


@torch.no_grad()
def start_as_repetition(conv: nn.Conv2d, factor: int) -> None:
    """Give a convolution before a pixel shuffle by `factor` the same weights for all factor^2 pixels of a cell."""
    for weights in (conv.weight, conv.bias):
        weights.copy_(weights[:: factor**2].repeat_interleave(factor**2, dim=0))


class Shuffle(nn.Module):
    """Twice the resolution: a 1x1 convolution makes 2x2 pixels of each pixel, with the channels of the next level. It is
    cheaper than `Upsample`.

    Arguments:
        inputs, wanted: channels of this level and of the next; the network gives them.
    """

    def __init__(self, inputs: PositiveInt, wanted: PositiveInt):
        super().__init__()
        self.outputs = wanted
        self.conv = nn.Conv2d(inputs, 4 * wanted, 1)
        start_as_repetition(self.conv, 2)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """A map (b, i, h, w) to one of twice the height and width."""
        return F.pixel_shuffle(self.conv(x), 2)
