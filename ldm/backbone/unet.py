"""The U-Net of latent diffusion: F(z_t, log SNR, c) with the shape of z_t.

It consists of residual blocks that are conditioned on the noise level, at resolutions that halve from level to level, with
skip connections between the way down and the way up (Ho et al. 2020, appendix B). At chosen levels each block is followed
by a transformer over pixels with cross-attention to the context's tokens (Rombach et al. 2021, section 3.3). With the
default parts it is the network of Stable Diffusion, layer for layer. `patch` folds p x p pixels into channels before the
first convolution, which makes a high resolution cheaper.

Sources:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2021), arXiv 2112.10752
    Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021), arXiv 2105.05233
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.backbone.base import Backbone, Conditioning, Inner
from ldm.backbone.drawing import Drawing
from ldm.nn.attention import SpatialTransformer, masked_mean
from ldm.nn.embedding import LogSnrEmbedding, TimeEmbedding
from ldm.nn.norm import Group, Norm
from ldm.nn.resnet import Downsample, Resample, ResBlock, Upsample
from ldm.types import Context, ContextShape, Latent, Probability, Times


class Layer(nn.Module):
    """A residual block and, at some levels, a transformer behind it.

    Arguments:
        block: the residual block.
        transformer: the transformer, or None.
        checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    def __init__(self, block: ResBlock, transformer: SpatialTransformer | None, checkpointing: bool):
        super().__init__()
        self.block, self.transformer, self.checkpointing = block, transformer, checkpointing

    def _forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        return x if self.transformer is None else self.transformer(x, tokens, mask)

    def forward(self, x: Float[Tensor, "b i h w"], conditioning: Conditioning) -> Float[Tensor, "b o h w"]:
        """A feature map (b, i, h, w) to one of the block's output channels, (b, o, h, w)."""
        if self.checkpointing and self.training:
            return checkpoint(self._forward, x, *conditioning, use_reentrant=False)
        return self._forward(x, *conditioning)


class Level(nn.Module):
    """The layers of one resolution, and the change to the next resolution, if there is one."""

    def __init__(self, layers: list[Layer], resample: nn.Module | None):
        super().__init__()
        self.layers, self.resample = nn.ModuleList(layers), resample

    def down(self, x: Tensor, conditioning: Conditioning) -> list[Tensor]:
        """The feature maps of all layers, the last one at the next resolution; the way up takes each of them again."""
        made = []
        for layer in self.layers:
            made.append(x := layer(x, conditioning))
        if self.resample is not None:
            made.append(self.resample(x))
        return made

    def up(self, x: Tensor, skips: list[Tensor], conditioning: Conditioning) -> Tensor:
        """The feature map after this level. Each layer takes the last map from `skips` and concatenates it to its input."""
        for layer in self.layers:
            x = layer(torch.cat([x, skips.pop()], dim=1), conditioning)
        return x if self.resample is None else self.resample(x)


class UNet(Backbone):
    """A U-Net with cross-attention.

    Arguments:
        channels: of z; the output has as many.
        context: the widths of the context's parts. Without tokens, transformers attend to pixels only.
        width: channels of the first level.
        multipliers: channels of every level, as multiples of `width`, the highest resolution first.
        blocks: residual blocks of each level on the way down, one number or one a level; the way up has one more.
        attention: for each level, whether a transformer follows each block.
        middle_attention: whether a transformer stands in the middle.
        heads: number of heads of every attention, or `None` for channels / head_width.
        head_width: channels of one head where `heads` is not given.
        depth: transformer blocks in each transformer.
        down, up: halve and double the resolution: `Downsample` or `Unshuffle`, `Upsample` or `Shuffle`.
        norm: the normalisation in residual blocks.
        attention_norm: the normalisation in transformers; the same as `norm` unless given.
        scale_shift: how the embedding of the noise level enters a block: as scale and shift, or added.
        pooled_context: whether the mean of the context's tokens, if there are any, is added to the embedding.
        drawn_context: channels of smooth maps that are made of this mean and concatenated to the input (`ldm.backbone.drawing`);
            with some, words of place are learnt in hundreds of updates instead of thousands.
        patch: patch x patch pixels of z are folded into channels before the first convolution.
        checkpointing: recompute activations in the backward pass instead of keeping them.
        time: makes the embedding of log-SNR, given its width.
        dropout: the share of activations that each block leaves out in training.

    The height and width of z must be multiples of `factor` = patch * 2^(levels - 1).
    """

    def __init__(
        self,
        channels: PositiveInt,
        context: ContextShape,
        *,
        width: PositiveInt = 128,
        multipliers: tuple[PositiveInt, ...] = (1, 2, 4),
        blocks: PositiveInt | tuple[PositiveInt, ...] = 2,
        attention: tuple[bool, ...] = (False, True, True),
        middle_attention: bool = True,
        heads: PositiveInt | None = None,
        head_width: PositiveInt = 64,
        depth: PositiveInt = 1,
        down: Resample = Downsample,
        up: Resample = Upsample,
        norm: Norm = Group,
        attention_norm: Norm | None = None,
        scale_shift: bool = False,
        pooled_context: bool = False,
        drawn_context: NonNegativeInt = 0,
        patch: PositiveInt = 1,
        dropout: Probability = 0.0,
        checkpointing: bool = False,
        time: TimeEmbedding = LogSnrEmbedding,
    ):
        embedding = 4 * width
        super().__init__(channels, context, width, embedding, time, pooled_context)
        counts = (blocks,) * len(multipliers) if isinstance(blocks, int) else tuple(blocks)
        self._check_levels(tuple(multipliers), counts, tuple(attention))
        drawn_context = 0 if context.tokens is None else drawn_context
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]

        def layer(inputs: int, outputs: int, attend: bool) -> Layer:
            block = ResBlock(inputs, outputs, embedding, norm=norm, scale_shift=scale_shift, dropout=dropout)
            if not attend:
                return Layer(block, None, checkpointing)
            count, kind = heads or max(1, outputs // head_width), attention_norm or norm
            attends = SpatialTransformer(outputs, count, context.tokens, depth, dropout=dropout, norm=kind)
            return Layer(block, attends, checkpointing)

        self.drawing = Drawing(context.tokens, drawn_context) if drawn_context else None
        inputs = channels + (context.spatial or 0) + drawn_context
        self.stem = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.downs, kept = _way_down(layer, down, widths, counts, attention)
        middle = kept[-1]
        self.middle = nn.ModuleList([layer(middle, middle, middle_attention), layer(middle, middle, False)])
        self.ups = _way_up(layer, up, widths, counts, attention, kept)
        self.norm = norm(widths[0])
        self.head = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        self._start_at_zero()

    @staticmethod
    def _check_levels(multipliers: tuple[int, ...], blocks: tuple[int, ...], attention: tuple[bool, ...]) -> None:
        if not len(blocks) == len(attention) == len(multipliers):
            raise ValueError(
                f"one entry a level: multipliers {multipliers} make {len(multipliers)} levels, but attention is "
                f"{attention} and blocks {blocks}"
            )

    def _start_at_zero(self) -> None:
        """Every residual block begins as the identity, and the output as zero (the code of Dhariwal and Nichol 2021)."""
        for module in self.modules():
            if isinstance(module, (ResBlock, SpatialTransformer)):
                module.start_as_identity()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Latent, log_snr: Times, c: Context) -> Latent:
        """F(z, log_snr, c), (b, c, h, w) like z; log_snr is (b,)."""
        self.check(z, c, self.factor, "patch * 2^(levels - 1)")
        conditioning = (self.embed(log_snr, c), c.tokens, c.mask)
        x = torch.cat([self.joined(z, c), *self._drawn(z, c)], dim=1)
        x = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [x]
        for level in self.downs:
            skips += level.down(skips[-1], conditioning)
        x = skips[-1]
        for layer in self.middle:
            x = layer(x, conditioning)
        for level in self.ups:
            x = level.up(x, skips, conditioning)
        x = self.head(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x

    @property
    def inner(self) -> Inner:
        """The last layer of the middle, at the lowest resolution."""
        layer = self.middle[-1]
        return Inner(layer, layer.block.outputs, (self.factor, self.factor))

    def _drawn(self, z: Tensor, c: Context) -> list[Tensor]:
        if self.drawing is None:
            return []
        return [self.drawing(masked_mean(c.tokens, c.mask), z.shape[2], z.shape[3]).to(z.dtype)]


def _way_down(
    layer: Callable[[int, int, bool], Layer],
    down: Resample,
    widths: Sequence[int],
    counts: Sequence[int],
    attention: Sequence[bool],
) -> tuple[nn.ModuleList, list[int]]:
    """The levels on the way down, and the channels of all feature maps that the way up takes again, the stem's first."""
    levels, kept = nn.ModuleList(), [widths[0]]
    for i, outputs in enumerate(widths):
        layers = []
        for _ in range(counts[i]):
            layers.append(layer(kept[-1], outputs, attention[i]))
            kept.append(outputs)
        resample = None
        if i < len(widths) - 1:
            resample = down(outputs, widths[i + 1])
            kept.append(resample.outputs)
        levels.append(Level(layers, resample))
    return levels, kept


def _way_up(
    layer: Callable[[int, int, bool], Layer],
    up: Resample,
    widths: Sequence[int],
    counts: Sequence[int],
    attention: Sequence[bool],
    kept: Sequence[int],
) -> nn.ModuleList:
    """The levels on the way up. Each layer also takes the last of the kept feature maps that no other layer has taken."""
    levels, kept, now = nn.ModuleList(), list(kept), kept[-1]
    for i in reversed(range(len(widths))):
        layers = []
        for _ in range(counts[i] + 1):
            layers.append(layer(now + kept.pop(), widths[i], attention[i]))
            now = widths[i]
        resample = up(now, widths[i - 1]) if i > 0 else None
        levels.append(Level(layers, resample))
        now = now if resample is None else resample.outputs
    return levels
