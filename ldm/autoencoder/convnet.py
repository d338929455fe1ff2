"""The convolutional encoder and decoder of latent diffusion (Rombach et al. 2021, appendix G; Esser et al. 2020).

They consist of residual blocks at resolutions that halve (encoder) or double (decoder) from level to level, with
self-attention over pixels in the middle. `patch` folds p x p pixels into channels before the first convolution and unfolds
them after the last one, so that f = patch * 2^(levels - 1) is the factor between the sides of image and latent.

Residual blocks begin as the identity, with zeros in the last convolution of each (Goyal et al. 2017, section 5.1). The
convolution before a pixel shuffle begins with equal weights for all pixels of a cell (ldm.nn.resnet). On Fashion-MNIST each
of the two improves PSNR by more than half a decibel after 300 updates (experiments/LOG.md, 2026-11-26).

Sources:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
    Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv 2012.09841
    Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour (2017), arXiv 1706.02677
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.nn.attention import SpatialAttention
from ldm.nn.norm import Group, Norm
from ldm.nn.resnet import Downsample, Resample, ResBlock, Upsample, start_as_repetition
from ldm.types import Image, Latent, Probability

Blocks: TypeAlias = NonNegativeInt | tuple[NonNegativeInt, ...]

DEFAULT_NORM = partial(Group, eps=1e-6)
PAD_END = partial(Downsample, pad_all_sides=False)


class Trunk(nn.Sequential):
    """Blocks one after another.

    Arguments:
        blocks: the modules.
        checkpointing: recompute the activations of each block in the backward pass instead of keeping them.
    """

    def __init__(self, blocks: list[nn.Module], checkpointing: bool):
        super().__init__(*blocks)
        self.checkpointing = checkpointing
        for block in blocks:
            if isinstance(block, ResBlock):
                block.start_as_identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The map after all blocks."""
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing and self.training else block(x)
        return x


def _per_level(blocks: int | tuple[int, ...], multipliers: tuple[int, ...]) -> tuple[int, ...]:
    counts = (blocks,) * len(multipliers) if isinstance(blocks, int) else tuple(blocks)
    if len(counts) != len(multipliers):
        raise ValueError(f"one entry a level: multipliers are {tuple(multipliers)} but blocks {counts}")
    return counts


def _attention(attention: tuple[bool, ...], multipliers: tuple[int, ...]) -> tuple[bool, ...]:
    attends = tuple(attention) or (False,) * len(multipliers)
    if len(attends) != len(multipliers):
        raise ValueError(f"one entry a level: multipliers are {tuple(multipliers)} but attention {attends}")
    return attends


def _middle(width: int, attention: bool, norm: Norm, dropout: float) -> list[nn.Module]:
    block = partial(ResBlock, width, width, norm=norm, dropout=dropout)
    return [block(), *([SpatialAttention(width, norm=norm)] if attention else []), block()]


class Encoder(nn.Module):
    """The encoder, from images (b, channels, h, w) to (b, latent, h / factor, w / factor).

    Arguments:
        width: channels of the first level.
        multipliers: channels of each level, as multiples of `width`, the highest resolution first.
        blocks: residual blocks of each level, one number or one a level.
            The lowest resolution has two more, the middle.
        middle_attention: self-attention between those two.
        attention: for each level, whether self-attention follows each of its blocks; () is none.
        down: halves the resolution, `Downsample` or `Unshuffle`.
        patch: pixels are folded by patch x patch into channels before the first convolution.
        mix: a last 1x1 convolution, as in published checkpoints ("quant_conv").
        checkpointing: recompute activations in the backward pass instead of keeping them.
        channels, latent: channels of the image and of the output; the autoencoder gives them.
        norm: the normalisation in every block, by its number of channels.
        dropout: the share of activations that each block leaves out in training.
    """

    def __init__(
        self,
        channels: PositiveInt,
        latent: PositiveInt,
        *,
        width: PositiveInt = 128,
        multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 4),
        blocks: Blocks = 2,
        middle_attention: bool = True,
        attention: tuple[bool, ...] = (),
        down: Resample = PAD_END,
        norm: Norm = DEFAULT_NORM,
        patch: PositiveInt = 1,
        mix: bool = False,
        dropout: Probability = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        self.widths, self.blocks = tuple(width * m for m in multipliers), _per_level(blocks, multipliers)
        self.middle_attention, self.attention = middle_attention, _attention(attention, multipliers)
        now = self.widths[0]
        self.stem = nn.Conv2d(channels * patch**2, now, 3, padding=1)
        trunk: list[nn.Module] = []
        for i, (outputs, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for _ in range(count):
                trunk.append(ResBlock(now, outputs, norm=norm, dropout=dropout))
                now = outputs
                if self.attention[i]:
                    trunk.append(SpatialAttention(now, norm=norm))
            if i < len(multipliers) - 1:
                trunk.append(down(now, self.widths[i + 1]))
                now = trunk[-1].outputs
        self.trunk = Trunk(trunk + _middle(now, middle_attention, norm, dropout), checkpointing)
        self.norm = norm(now)
        self.head = nn.Conv2d(now, latent, 3, padding=1)
        self.mix = nn.Conv2d(latent, latent, 1) if mix else nn.Identity()

    def forward(self, x: Image) -> Float[Tensor, "b m lh lw"]:
        x = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        return self.mix(self.head(F.silu(self.norm(self.trunk(x)))))


class Decoder(nn.Module):
    """The decoder, from latents (b, latent, h, w) to images (b, channels, h * factor, w * factor).

    Patch and number of levels may differ from the encoder's, as long as the factor is the same. In published autoencoders
    the decoder has one block more in each level than the encoder.

    Arguments:
        channels, latent: channels of the image and of the latent; the autoencoder gives them.
        width: channels of the level of the highest resolution.
        multipliers: channels of each level, as multiples of `width`, the highest resolution first.
        blocks: residual blocks of each level, one number or one a level; the lowest resolution has two more, the middle.
        middle_attention: self-attention between those two.
        attention: for each level, whether self-attention follows each of its blocks; () is none.
        up: doubles the resolution, `Upsample` or `Shuffle`.
        norm: the normalisation in every block, by its number of channels.
        patch: channels are unfolded to patch x patch pixels after the last convolution.
        mix: a first 1x1 convolution, as in published checkpoints ("post_quant_conv").
        dropout: the share of activations that each block leaves out in training.
        checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        channels: PositiveInt,
        latent: PositiveInt,
        *,
        width: PositiveInt = 128,
        multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 4),
        blocks: Blocks = 3,
        middle_attention: bool = True,
        attention: tuple[bool, ...] = (),
        up: Resample = Upsample,
        norm: Norm = DEFAULT_NORM,
        patch: PositiveInt = 1,
        mix: bool = False,
        dropout: Probability = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        self.widths, self.blocks = tuple(width * m for m in multipliers), _per_level(blocks, multipliers)
        self.middle_attention, self.attention = middle_attention, _attention(attention, multipliers)
        now = self.widths[-1]
        self.mix = nn.Conv2d(latent, latent, 1) if mix else nn.Identity()
        self.stem = nn.Conv2d(latent, now, 3, padding=1)
        trunk = _middle(now, middle_attention, norm, dropout)
        for i in reversed(range(len(multipliers))):
            for _ in range(self.blocks[i]):
                trunk.append(ResBlock(now, self.widths[i], norm=norm, dropout=dropout))
                now = self.widths[i]
                if self.attention[i]:
                    trunk.append(SpatialAttention(now, norm=norm))
            if i > 0:
                trunk.append(up(now, self.widths[i - 1]))
                now = trunk[-1].outputs
        self.trunk = Trunk(trunk, checkpointing)
        self.norm = norm(now)
        self.head = nn.Conv2d(now, channels * patch**2, 3, padding=1)
        start_as_repetition(self.head, patch)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, at which the adaptive adversarial weight compares gradients."""
        return self.head.weight

    def forward(self, z: Latent) -> Image:
        x = self.head(F.silu(self.norm(self.trunk(self.stem(self.mix(z))))))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x


class Pixels(nn.Module):
    """The encoder and the decoder of an autoencoder without networks: the latent is the image.

    Arguments:
        channels, latent: channels of the image and of the latent, which have to be equal; the autoencoder gives them.
    """

    factor = 1

    def __init__(self, channels: PositiveInt, latent: PositiveInt):
        super().__init__()
        if channels != latent:
            raise ValueError(
                f"without a network an image of {channels} channels cannot become a latent of {latent}; "
                "use the identity bottleneck and leave its channels open"
            )

    @property
    def last_layer(self) -> nn.Parameter:
        """There is none: raises TypeError."""
        raise TypeError("the identity autoencoder has no layers, so nothing to train: it is a first stage as it stands")

    def forward(self, x: Image) -> Image:
        return x
