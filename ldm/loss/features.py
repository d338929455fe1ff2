"""Distances of images in the features of a frozen network.

LPIPS (arXiv 1801.03924, equation 1): features of several layers, each pixel's scaled to unit length over channels,
compared squared with one learnt weight a channel, averaged over space, summed over layers. `FeatureDistance` is the
same without the learnt weights, over any torchvision network, for where the calibrated networks cannot be had;
`RandomFeatures` over a network that was never trained, which is weaker but better than pixels (its section 4), and
needs nothing.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ldm.loss.perceptual import Perceptual
from ldm.random import seed_of
from ldm.tensors import read_tensors
from ldm.types import Image

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_CLASSIFIERS = ("classifier", "fc", "head")  # torchvision's names of what comes after the features
_RECTIFIERS = nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.ELU | nn.SiLU | nn.Hardswish | nn.Hardtanh


class NetworkDistance(Perceptual):
    """A distance by a network that stays frozen and outside the module tree; it follows the device of its images.

    Arguments:
        smallest: smaller images are enlarged to this side, as the network's strides need it.
    """

    def __init__(self, network: nn.Module, smallest: int):
        super().__init__()
        self._network = [network.float().eval().requires_grad_(False)]  # in a list: no submodule
        self.smallest = smallest

    @property
    def network(self) -> nn.Module:
        return self._network[0]

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        if next(self.network.parameters()).device != x.device:
            self.network.to(x.device)
        return self._distance(self._prepared(x), self._prepared(y))

    def _prepared(self, x: Image) -> Float[Tensor, "b 3 h2 w2"]:
        x, short = rgb(x.float()), min(x.shape[-2:])
        if short >= self.smallest:
            return x
        return F.interpolate(x, scale_factor=self.smallest / short, mode="bilinear", align_corners=False)

    @abstractmethod
    def _distance(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Of images large enough."""


def rgb(x: Image) -> Float[Tensor, "b 3 h w"]:
    """Grey repeated, transparency composited on white; ValueError for other channels."""
    if x.shape[1] in (1, 3):
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] != 4:
        raise ValueError(
            f"a network's features are of images with 1, 3 or 4 channels; got {x.shape[1]}: take loss.perceptual=null "
            "or the LaplacianPyramid, which takes any"
        )
    alpha = (x[:, 3:] + 1) / 2
    return x[:, :3] * alpha + 1 - alpha


class LPIPS(NetworkDistance):
    """LPIPS as torchmetrics has it, with its learnt layer weights.

    Arguments:
        network: which; `vgg` is customary as a loss.
        backbone: torchvision's ImageNet weights of it from a local file; None downloads them (torch's hub cache).

    Raises:
        OSError: the download failed. ValueError: the file is of another network.
    """

    def __init__(self, network: Literal["vgg", "alex", "squeeze"] = "vgg", backbone: Path | None = None):
        from torchmetrics.functional.image.lpips import _LPIPS

        state = _published(network) if backbone is None else read_tensors(backbone)
        lpips = _LPIPS(net=network, pnet_rand=True)
        _load_slices(lpips.net, state, str(backbone or network))
        super().__init__(lpips, smallest=32)

    def _distance(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return self.network(x, y).flatten()


class _Compared(NetworkDistance):
    """Unit-normalised features of every layer that the network gives, compared squared."""

    flip180 = False

    def _distance(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        total = torch.zeros(len(x), device=x.device)
        # One after the other: x wants no gradient, so nothing of it is kept for the backward pass.
        for one, other in zip(self._features(x), self._features(y), strict=True):
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total

    def _features(self, x: Image) -> list[Tensor]:
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        x = ((x + 1) / 2 - mean) / std
        features = self.network(x.flip(2, 3) if self.flip180 else x)
        return [_unit(layer.float()) for layer in features.values()]


def _unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # The square root of a sum that is never 0 has a gradient everywhere.
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8)


class FeatureDistance(_Compared):
    """Features of several layers of a torchvision network with local weights.

    Arguments:
        architecture: torchvision's name, as `squeezenet1_1`.
        weights: safetensors or a state dict; the classifier may be missing.
        layers: names of the layers compared, as `torchvision.models.feature_extraction.get_graph_node_names` lists.
        flip180: turn images by 180 degrees first, as weights brought from TensorFlow can need.
        smallest: smaller images are enlarged to this side.

    Raises:
        ValueError: no such architecture or layer, or the weights are of another network.
    """

    def __init__(
        self,
        architecture: str,
        weights: Path,
        layers: tuple[str, ...],
        flip180: bool = False,
        smallest: PositiveInt = 32,
    ):
        from torchvision.models import get_model, list_models
        from torchvision.models.feature_extraction import create_feature_extractor

        if architecture not in list_models():
            raise ValueError(f"torchvision has no {architecture!r}; see torchvision.models.list_models()")
        if not layers:
            raise ValueError("layers is empty; name at least one, as features.4")
        network = get_model(architecture, weights=None).eval()
        own = {name: value for name, value in network.state_dict().items() if not name.startswith(_CLASSIFIERS)}
        state = {name: value for name, value in read_tensors(weights).items() if not name.startswith(_CLASSIFIERS)}
        wrong = sorted(own.keys() ^ state.keys())
        wrong += [name for name in own if name in state and own[name].shape != state[name].shape]
        if wrong:
            raise ValueError(f"{weights} is not {architecture}: {len(wrong)} tensors differ, as {wrong[:3]}")
        network.load_state_dict(state, strict=False)
        for module in network.modules():
            if isinstance(module, _RECTIFIERS):
                module.inplace = False  # or it would overwrite the layer before it, which may be compared
        super().__init__(create_feature_extractor(network, list(layers)), smallest)
        self.flip180 = flip180


class RandomFeatures(_Compared):
    """A convolutional network with random weights, the same for the same seed.

    Arguments:
        width: channels of the first layer; each further one halves the sides and doubles the channels.
        layers: how many.
    """

    def __init__(self, width: PositiveInt = 32, layers: PositiveInt = 3, seed: NonNegativeInt = 0):
        super().__init__(_Untrained(width, layers, seed), smallest=2 ** (layers + 1))


class _Untrained(nn.Module):
    def __init__(self, width: int, layers: int, seed: int):
        super().__init__()
        random = torch.Generator().manual_seed(seed_of(seed, "random features"))
        widths = [3, *(width * 2**i for i in range(layers))]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        for layer in self.layers:
            spread = (2 / layer.weight[0].numel()) ** 0.5
            layer.weight.data = spread * torch.randn(layer.weight.shape, generator=random)
            layer.bias.data = 0.5 * torch.randn(layer.bias.shape, generator=random)

    def forward(self, x: Image) -> dict[str, Tensor]:
        found = {}
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x if i == 0 else F.avg_pool2d(x, 2)))
            found[str(i)] = x
        return found


def _published(network: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights, from torch's hub cache or its address."""
    from torchvision.models import get_model_weights

    name = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}[network]
    url = get_model_weights(name).DEFAULT.url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:  # URLError is one
        raise OSError(
            f"LPIPS needs torchvision's {name} and could not download it ({error}); put the file into "
            f"{torch.hub.get_dir()}/checkpoints, give loss.perceptual.backbone=FILE, or take loss=kl"
        ) from error


def _load_slices(net: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """torchvision's `features.N` into torchmetrics' slices, whose names end in the same N."""
    state = net.state_dict()
    renamed = {name: "features." + name.split(".", 2 if name.startswith("slices.") else 1)[-1] for name in state}
    wrong = [w for name, w in renamed.items() if w not in weights or weights[w].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{source} lacks {wrong[:3]} as LPIPS wants them: not torchvision's network of that name")
    net.load_state_dict({name: weights[wanted] for name, wanted in renamed.items()})
