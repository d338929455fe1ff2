"""PatchGAN: a convolutional discriminator (critic) of overlapping patches (Isola et al. 2016, section 3.2; Esser et al.
2020).

Its logits are a map, one logit for each patch. It has group normalisation, where the papers have batch normalisation. With
batch normalisation the logits of an image would depend on the other images of the batch. They would then change with the
number of ranks and of micro-batches, real and reconstructed images could be distinguished by the batch that they are in, and
statistics would have to be kept equal across ranks.

Sources:
    Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (2016), arXiv 1611.07004
    Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv 2012.09841
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
    """Images (b, channels, h, w) to logits (b, 1, h', w') with h' = h / 2^layers - 2, rounded down, which is at least 1.

    Arguments:
        channels: of the images.
        width: channels of the first layer; each further layer doubles them, up to 8 times as many.
        layers: convolutions with stride; with 3 a patch has 70 pixels a side, with 2 it has 34, with 1 it has 16. Small
            images need few.
        norm: makes the normalisation behind every convolution but the first, given its number of channels.
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
        """Logits (b, 1, h', w') of images (b, channels, h, w); ValueError where the images are too small."""
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this critic wants images of at least {self.smallest} pixels a side; got {x.shape[-2]}x{x.shape[-1]}: "
                "give it fewer layers"
            )
        return self.head(self.body(x))
