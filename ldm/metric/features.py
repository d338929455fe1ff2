"""Feature networks: what a Fréchet or kernel distance between two sets of images is measured in.

FID (arXiv 1706.08500) is by definition the distance in the 2048 pooled features of one network, TensorFlow's Inception
of December 2015, with that network's resizing (bilinear, no antialiasing, corners as TensorFlow 1 had them; arXiv
2104.11222 shows how much depends on it). Every other network gives a number of its own: it has its own name here, and
records carry its hash, so that none can pass for another.

All networks see what a viewer would: images are clamped and rounded to 8 bits first, grey is repeated over three
channels and transparency composited on white.

    network       needs                          width   good for
    inception_2015 its weights (95 MB)             2048    FID as others publish it
    <torchvision> weights of that architecture   varies  photographs, offline
    cifar10_resnet20 .. 110 the classifier       64      32-pixel images
    random_conv   nothing                        288     any machine; weak: sees colour, texture and coarse layout
    <any module>  a module with `features(x)`    given   features trained for the very data
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ldm.eight_bits import eight_bits
from ldm.random import Random, seed_of
from ldm.types import Image

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeaturesUnavailable(RuntimeError):
    """A feature network that cannot be had here (no weights, no network, a package missing); go on with another."""


class FeaturesUnavailableWarning(UserWarning):
    """Numbers of one feature network will be missing from the records."""


def weights_hash(module: nn.Module, *settings: object) -> str:
    """16 hexadecimal digits over the names, shapes, types and bytes of a module's state, and over `settings`.

    Settings are what changes the features without being a weight (size, flip), so that an equal hash means equal
    features.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureNetwork(nn.Module, ABC):
    """Images (b, 1 | 3 | 4, h, w) in [-1, 1] to features (b, width), float32; frozen, in evaluation mode.

    Attributes:
        name: what the numbers are called by: `fd_<name>`.
        width: number of features.
        smallest: side, in pixels, of the smallest images that it can see.
        weights_hash: of the weights and of every setting that the features depend on.
    """

    name: str
    width: int
    smallest: int = 1
    weights_hash: str

    @abstractmethod
    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of 8-bit images."""

    @torch.no_grad()
    def forward(self, x: Image) -> Float[Tensor, "b d"]:
        with torch.autocast(x.device.type, enabled=False):
            return self.embed(eight_bits(x)).float()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode, whatever a trainer asks of its submodules."""
        return super().train(False)

    def _settle(self, name: str, width: int, *settings: object) -> None:
        self.name, self.width, self.weights_hash = name, width, weights_hash(self, *settings)
        self.eval().requires_grad_(False)


def standardized(
    pixels: UInt8[Tensor, "b 3 h w"],
    size: int | None,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
) -> Float[Tensor, "b 3 H W"]:
    """8-bit images less `mean` over `std`, of numbers in [0, 1] and by default ImageNet's; resized with antialiasing to a
    square of side `size`, if any."""
    x = pixels.float() / 255
    if size is not None and x.shape[-2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    centre, spread = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (mean, std))
    return (x - centre) / spread


_SMALLEST = 16  # of the images of RandomConv: its last layer then has 2 x 2 pixels, of which there is a deviation


class RandomConv(FeatureNetwork):
    """A convolutional network that was never trained: the same on every machine, needing nothing.

    Three layers of stride 2 with leaky rectifiers. Features are the mean and the standard deviation over the image of
    each channel of each layer, and a 2 x 2 grid of means of the last: colours, amounts of texture and noise, coarse
    layout, and nothing of objects. Untrained networks tell images apart (arXiv 1801.03924, section 4), but weakly:
    compare these numbers only with each other, and believe another network where it disagrees.

    Arguments:
        seed: of the weights, which are uniform numbers computed to the bit alike everywhere.
        size: side that images are resized to; None takes them as they are, from 16 pixels on, which sees noise and blur best.
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
    """What `ModuleFeatures` wraps."""

    def features(self, x: Image) -> Float[Tensor, "b d"]: ...


class ModuleFeatures(FeatureNetwork):
    """The features of any module with `features(x) -> (b, width)` for x (b, 3, h, w) in [-1, 1]."""

    def __init__(self, module: nn.Module, name: str, width: PositiveInt):
        super().__init__()
        self.module = module
        self._settle(name, width)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.module.features(pixels.float() / 127.5 - 1)


def available(networks: Mapping[str, Callable[[], FeatureNetwork]]) -> dict[str, FeatureNetwork]:
    """Build the networks that can be had here, with a FeaturesUnavailableWarning for each that cannot."""
    found = {}
    for name, constructor in networks.items():
        try:
            found[name] = constructor()
        except FeaturesUnavailable as error:
            warnings.warn(f"no numbers of {name}: {error}", FeaturesUnavailableWarning, stacklevel=2)
    return found
