"""Feature networks, in whose features distances between sets of images are measured.

FID (Heusel et al. 2017) is by definition the distance in the 2048 pooled features of one network, TensorFlow's Inception of
December 2015, with that network's resizing (bilinear, without antialiasing, with the corners of TensorFlow 1). Parmar et al.
2021 show how much the value depends on it. A distance in the features of another network is another number. So each network
has a name of its own, and records contain a hash of it.

Images are first clamped and rounded to 8 bits, grey is repeated over three channels, and transparency is composited on white.
So a network is given what a viewer sees.

    network                  needs                          width   good for
    inception_2015           its weights (95 MB)            2048    FID as it is published
    <torchvision>            weights of that architecture   varies  photographs, offline
    cifar10_resnet20 .. 110  the classifier                 64      images of 32 pixels
    random_conv              nothing                        288     any machine; weak: colour, texture and coarse layout only
    classifier               labels of the data             96      data with classes: trained on them, once
    <transformers>           weights (DINOv2, CLIP)         varies  photographs and what is drawn, with a GPU
    <any module>             a module with `features(x)`    given   features that were trained for the data at hand

Sources:
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (2017),
        arXiv 1706.08500
    Parmar et al., On Aliased Resizing and Surprising Subtleties in GAN Evaluation (2021), arXiv 2104.11222
    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018), arXiv 1801.03924
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Literal, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ldm.eight_bits import eight_bits
from ldm.random import Random, seed_of
from ldm.tensors import hash_of
from ldm.types import Image

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeaturesUnavailable(RuntimeError):
    """A feature network is not available here: its weights cannot be found or downloaded, or a package is missing."""


class FeaturesUnavailableWarning(UserWarning):
    """The numbers of a feature network will be missing in the records."""


class FeatureNetwork(nn.Module, ABC):
    """A frozen network in evaluation mode, from images (b, 1 | 3 | 4, h, w) in [-1, 1] to features (b, width), float32. A new
    one writes `embed`.

    Attributes:
        name: the name in the names of numbers, as `fd_<name>`.
        width: number of features.
        smallest: side, in pixels, of the smallest images that it accepts.
        weights_hash: a hash of the weights and of all settings that the features depend on.
    """

    name: str
    width: int
    smallest: int = 1
    weights_hash: str

    @abstractmethod
    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features (b, width) of 8-bit images (b, 3, h, w)."""

    @torch.no_grad()
    def forward(self, x: Image) -> Float[Tensor, "b d"]:
        """The features (b, width), float32, of images (b, 1 | 3 | 4, h, w) in [-1, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            return self.embed(eight_bits(x)).float()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode, whatever `mode` is, because trainers switch all submodules to training mode."""
        return super().train(False)

    def _settle(self, name: str, width: int, *settings: object) -> None:
        self.name, self.width, self.weights_hash = name, width, hash_of(self.state_dict(), *settings)[:16]
        self.eval().requires_grad_(False)


class Judging(FeatureNetwork):
    """A feature network that is a classifier: its features, multiplied by a matrix, are logits of classes. A new one writes
    `logits`, too.

    Attributes:
        score: the name of the Inception score, or its analogue, of these classes.
    """

    score: str

    @abstractmethod
    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """The logits of the classes, given features."""


def standardized(
    pixels: UInt8[Tensor, "b 3 h w"],
    size: int | None,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Float[Tensor, "b 3 H W"]:
    """8-bit images (b, 3, h, w), resized with antialiasing to squares of side `size` unless it is None, with numbers scaled to
    [0, 1] and then standardised by `mean` and `std`, which by default are those of ImageNet."""
    x = pixels.float() / 255
    if size is not None and x.shape[-2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode=mode, antialias=True, align_corners=False)
    centre, spread = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (mean, std))
    return (x - centre) / spread


# The smallest side for RandomConv. Its last layer then has 2 x 2 pixels, enough for a standard deviation.
_SMALLEST = 16


class RandomConv(FeatureNetwork):
    """A convolutional network that was never trained. It needs no weights and is the same on every machine.

    It has three layers of stride 2 with leaky rectifiers. The features are the mean and the standard deviation over the image
    of each channel of each layer, and the means of the last layer on a 2 x 2 grid. They describe colours, amounts of texture
    and noise, and coarse layout, but no objects. Untrained networks distinguish images (Zhang et al. 2018, section 4), but
    weakly: these numbers should only be compared with each other, and another network is to be preferred where it disagrees.

    Arguments:
        seed: of the weights, which are uniform numbers, equal to the bit on every machine.
        size: side that images are resized to. None takes images as they are, of at least 16 pixels a side, which is most
            sensitive to noise and blur.
    """

    CHANNELS = (16, 32, 32)

    def __init__(self, seed: int = 0, size: Annotated[int, Field(ge=_SMALLEST)] | None = None):
        super().__init__()
        if size is not None and size < _SMALLEST:
            raise ValueError(f"size: wanted at least {_SMALLEST} pixels, got {size}")
        self.size, self.smallest = size, _SMALLEST if size is None else 1
        widths = (3, *self.CHANNELS)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(widths))
        for i, layer in enumerate(self.layers):
            random = Random(seed_of(seed, "random_conv"), i, torch.arange(layer.weight.shape[0]))
            bound = (6 / layer.weight[0].numel()) ** 0.5
            layer.weight.data = (2 * random.uniform("weight", tuple(layer.weight.shape[1:])) - 1) * bound
            layer.bias.data = (2 * random.uniform("bias") - 1) * 0.5
        self._settle("random_conv", 2 * sum(self.CHANNELS) + 4 * self.CHANNELS[-1], size)

    def embed(self, pixels: Tensor) -> Tensor:
        x, features = standardized(pixels, self.size), []
        for layer in self.layers:
            x = layer(x)
            features += [x.mean((2, 3)), x.std((2, 3))]
            x = F.leaky_relu(x, 0.2)
        return torch.cat([*features, F.adaptive_avg_pool2d(x, 2).flatten(1)], dim=1)


class HasFeatures(Protocol):
    """A module with features, which `ModuleFeatures` can wrap."""

    def features(self, x: Image) -> Float[Tensor, "b d"]:
        """The features (b, d) of images (b, 3, h, w) in [-1, 1]."""
        ...


class ModuleFeatures(FeatureNetwork):
    """The features of any module that has a method `features`.

    Arguments:
        module: a module whose method `features` maps images (b, 3, h, w) in [-1, 1] to (b, width).
        name: the name in the names of numbers.
        width: number of features.
    """

    def __init__(self, module: nn.Module, name: str, width: PositiveInt):
        super().__init__()
        self.module = module
        self._settle(name, width)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.module.features(pixels.float() / 127.5 - 1)


def available(networks: Mapping[str, Callable[[], FeatureNetwork]]) -> tuple[dict[str, FeatureNetwork], list[str]]:
    """The networks that are available here, and for each other one a line that says why it is not."""
    found, missing = {}, []
    for name, constructor in networks.items():
        try:
            found[name] = constructor()
        except FeaturesUnavailable as error:
            missing.append(f"no numbers of {name}: {error}")
    return found, missing


def warn_of(missing: Iterable[str]) -> None:
    """A FeaturesUnavailableWarning for each line about numbers that will be missing."""
    for line in missing:
        warnings.warn(line, FeaturesUnavailableWarning, stacklevel=2)
