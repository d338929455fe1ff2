"""Residual networks without normalisation layers: from noise to a map, and from a map to one number.

A block is a bottleneck turned inside out,

    x <- x + C3(act(C2(act(C1(x) + b1)) + b2)),    C1, C3 of 1x1 pixels, C2 of 3x3 in groups of channels,

on `expansion` times as many channels within. A single position has no neighbours: C2 is then of 1x1 pixels and of all
channels at once, and the networks are perceptrons. Nothing in a block looks at other examples, nor at moments over a map, so
a penalty on an example's gradient (R1, R2) is of that example alone, and no statistics have to agree between ranks. What
normalisation does at the beginning of training, the first weights do: C1 and C2 are drawn with deviation
L^(-1/4) gain / sqrt(fan-in) for L blocks in the network, and C3 is zero, so that a network of any depth begins as its linear
part and its output moves by the same amount at the first update (Zhang et al. 2019; the blocks, without resampling filters,
are those of Huang et al. 2024, section 3.3).

The resolution is halved, or doubled, between levels for as long as both sides stay even and no less than 4: 32 x 32 is
worked on at 32, 16, 8 and 4, 28 x 28 at 28, 14 and 7, and points of the plane as 1 x 1.

A context enters a generator beside the noise; a critic by projection (Miyato and Koyama 2018, equation 3):

    f(x, c) = (w + V c) . phi(x),    c the mean of the context's tokens.

Sources:
    Zhang et al., Fixup Initialization: Residual Learning Without Normalization (2019), arXiv 1901.09321
    Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline (2024), arXiv 2501.05441
    Miyato and Koyama, cGANs with Projection Discriminator (2018), arXiv 1802.05637
    Miyato et al., Spectral Normalization for Generative Adversarial Networks (2018), arXiv 1802.05957
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ldm.nn.attention import masked_mean
from ldm.types import Context, ContextShape, Latent

_SMALLEST = 4  # pixels a side, below which the resolution is not halved


class Activation(NamedTuple):
    """A nonlinearity and its gain: 1 / sqrt(E[f(x)^2]) for a standard normal x."""

    function: Callable[[Tensor], Tensor]
    gain: float


LEAKY = Activation(functools.partial(F.leaky_relu, negative_slope=0.2), math.sqrt(2 / 1.04))
SMOOTH = Activation(F.silu, 1.6766)


def sides(height: int, width: int) -> list[tuple[int, int]]:
    """The heights and widths of the levels of a map, the finest first."""
    found = [(height, width)]
    while height % 2 == width % 2 == 0 and min(height, width) >= 2 * _SMALLEST:
        height, width = height // 2, width // 2
        found.append((height, width))
    return found


def _drawn(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Module:
    """The layer with weights of deviation gain / sqrt(fan-in), and without bias."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    return layer


class Convolution(nn.Conv2d):
    """A convolution without bias, which of a single position is computed as the product of matrices that it is there: with a
    gradient's gradient torch's convolutions of 1 x 1 maps take several times as long."""

    def __init__(self, channels: int, outputs: int, kernel: tuple[int, int] = (1, 1), groups: int = 1):
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(channels, outputs, kernel, padding=padding, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        if self.groups == 1 and self.kernel_size == (1, 1) == x.shape[2:]:
            return F.linear(x.flatten(1), self.weight.flatten(1))[:, :, None, None]
        return super().forward(x)


class Residual(nn.Module):
    """A residual block of maps (b, channels, h, w).

    Arguments:
        channels: of the map.
        size: height and width of the map.
        expansion: channels within, as a multiple of `channels`.
        group: channels of each group of the 3x3 convolution; all in one where they cannot be divided by it, and where a map
            is of one position.
        activation: the nonlinearity.
        depth: number of blocks in the whole network.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], expansion: int, group: int, activation: Activation, depth: int
    ):
        super().__init__()
        high, wide = (1 if side == 1 else 3 for side in size)  # beside a single row the rest would see padding alone
        inner = expansion * channels
        gain = activation.gain * depth**-0.25
        groups = 1 if high == wide == 1 or inner % group else inner // group
        self.first = _drawn(Convolution(channels, inner), gain)
        self.second = _drawn(Convolution(inner, inner, (high, wide), groups), gain)
        self.last = Convolution(inner, channels)
        nn.init.zeros_(self.last.weight)
        self.biases = nn.ParameterList([torch.zeros(inner, 1, 1) for _ in range(2)])
        self.act = activation.function

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map (b, channels, h, w) to a map."""
        y = self.act(self.first(x) + self.biases[0])
        return x + self.last(self.act(self.second(y) + self.biases[1]))


def _levels(
    sizes: list[tuple[int, int]], blocks: int, width: int, expansion: int, group: int, act: Activation
) -> nn.ModuleList:
    depth = len(sizes) * blocks
    return nn.ModuleList(
        nn.Sequential(*(Residual(width, size, expansion, group, act, depth) for _ in range(blocks))) for size in sizes
    )


class Generator(nn.Module):
    """Noise (b, noise) and a context to maps (b, c, h, w).

    Arguments:
        noise: numbers of noise for an example.
        shape: (c, h, w) of a map.
        context: the widths of the context's parts; tokens enter by their mean.
        width: channels at every level.
        blocks: residual blocks at each level.
        expansion: channels within a block, as a multiple of `width`.
        group: channels of each group of the 3x3 convolutions.
    """

    def __init__(
        self,
        noise: PositiveInt,
        shape: tuple[int, int, int],
        context: ContextShape,
        width: PositiveInt = 64,
        blocks: PositiveInt = 2,
        expansion: PositiveInt = 2,
        group: PositiveInt = 16,
    ):
        super().__init__()
        channels, *size = shape
        self.sides = sides(*size)[::-1]
        self.start = (width, *self.sides[0])
        self.from_noise = _drawn(nn.Linear(noise, math.prod(self.start), bias=False))
        tokens = context.tokens
        self.from_context = None if tokens is None else _drawn(nn.Linear(tokens, math.prod(self.start), bias=False))
        self.levels = _levels(self.sides, blocks, width, expansion, group, LEAKY)
        self.head = _drawn(Convolution(width, channels))

    def forward(self, noise: Float[Tensor, "b n"], c: Context) -> Latent:
        """Maps (b, c, h, w) of noise (b, noise), given the context."""
        start = self.from_noise(noise)
        if self.from_context is not None:
            start = start + self.from_context(masked_mean(c.tokens, c.mask))
        x = start.view(-1, *self.start)
        for size, level in zip(self.sides, self.levels, strict=True):
            x = level(x if x.shape[2:] == size else F.interpolate(x, size, mode="nearest"))
        return self.head(x)


class Critic(nn.Module):
    """Maps (b, c, h, w) and a context to one number each, (b,).

    Arguments:
        shape: (c, h, w) of a map.
        context: the widths of the context's parts; the mean of the tokens is projected on.
        width: channels at every level, and of the features that the context is projected on.
        blocks: residual blocks at each level.
        expansion: channels within a block, as a multiple of `width`.
        group: channels of each group of the 3x3 convolutions.
        spectral: whether every layer's matrix has largest singular value 1 (Miyato et al. 2018), for a critic without penalties.
        smooth: whether the nonlinearity is SiLU and not a leaky ReLU, so that the gradient has a gradient everywhere.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        context: ContextShape,
        width: PositiveInt = 64,
        blocks: PositiveInt = 2,
        expansion: PositiveInt = 2,
        group: PositiveInt = 16,
        spectral: bool = False,
        smooth: bool = False,
    ):
        super().__init__()
        channels, *size = shape
        self.sides = sides(*size)
        self.stem = _drawn(Convolution(channels, width))
        self.levels = _levels(self.sides, blocks, width, expansion, group, SMOOTH if smooth else LEAKY)
        self.features = _drawn(nn.Linear(width * math.prod(self.sides[-1]), width, bias=False))
        self.head = _drawn(nn.Linear(width, 1, bias=False))
        tokens = context.tokens
        self.embed = None if tokens is None else _drawn(nn.Linear(tokens, width, bias=False), width**-0.5)
        if spectral:
            self._bound()

    def _bound(self) -> None:
        """Give every layer the spectral norm 1; one of zeros has none, so the last layers of blocks begin at random, too."""
        for module in list(self.modules()):
            if isinstance(module, Residual):
                _drawn(module.last)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)

    def forward(self, x: Latent, c: Context) -> Float[Tensor, " b"]:
        """f(x, c), (b,), of maps (b, c, h, w)."""
        x = self.stem(x)
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else F.avg_pool2d(x, 2))
        features = self.features(x.flatten(1))
        weights = self.head.weight
        if self.embed is not None:
            weights = weights + self.embed(masked_mean(c.tokens, c.mask))
        return (weights * features).sum(1)


@torch.no_grad()
def estimate_spectral_norms(network: nn.Module) -> None:
    """A step of power iteration for every matrix of a network whose spectral norm is kept at 1; elsewhere nothing happens."""
    for module in filter(parametrize.is_parametrized, list(network.modules())):
        training = module.training
        module.train()  # in which torch takes a step whenever the matrix is read
        for name in module.parametrizations:
            getattr(module, name)
        module.train(training)
