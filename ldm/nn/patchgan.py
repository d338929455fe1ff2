"""PatchGAN: a convolutional critic that judges overlapping patches (arXiv 1611.07004, section 3.2; 2012.09841).

Its logits are a map, one for each patch. Group normalisation in place of the papers' batch normalisation: a verdict on
an image must not depend on the others in the batch, or it would change with the number of ranks and micro-batches, real
and reconstructed images could be told apart by whom they came with, and DDP would have statistics to keep equal.
"""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.nn.norm import Group, Norm
from ldm.types import Image

DEFAULT_NORM = partial(Group, groups=8)


class PatchGAN(nn.Module):
    """Images (b, channels, h, w) -> logits (b, 1, h', w'), where h' = h / 2^layers - 2, rounded down, is at least 1.

    Arguments:
        width: channels of the first layer, doubled by each of `layers` further ones up to 8 times as many.
        layers: strided convolutions; 3 see patches of 70 pixels, 2 of 34, 1 of 16: small images want few.
        channels: of the images.
        norm: the normalisation after every further convolution, by its number of channels.
    """

    def __init__(
        self, channels: PositiveInt = 3, width: PositiveInt = 64, layers: PositiveInt = 3, norm: Norm = DEFAULT_NORM
    ):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        now = width
        for i in range(1, layers + 1):
            wide = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            parts += [nn.Conv2d(now, wide, 4, stride, 1, bias=False), norm(wide), nn.LeakyReLU(0.2)]
            now = wide
        self.body = nn.Sequential(*parts)
        self.head = nn.Conv2d(now, 1, 4, 1, 1)
        self.smallest = 3 * 2**layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, x: Image) -> Float[Tensor, "b 1 h2 w2"]:
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this critic wants images of at least {self.smallest} pixels a side; got {x.shape[-2]}x{x.shape[-1]}: "
                "give it fewer layers"
            )
        return self.head(self.body(x))
