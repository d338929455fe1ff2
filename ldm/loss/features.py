"""Distances of images in the features of a frozen network.

LPIPS (arXiv 1801.03924, equation 1): features of several layers, each pixel's scaled to unit length over channels,
compared squared with one learnt weight a channel, averaged over space, summed over layers. `FeatureDistance` is the
same without the learnt weights, over any torchvision network, for where the calibrated networks cannot be had;
`RandomFeatures` over a network that was never trained, which is weaker but better than pixels (its section 4), and
needs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ldm.alignment.maps import FrozenNetwork, Maps, RandomMaps, TorchvisionMaps
from ldm.loss.perceptual import Perceptual
from ldm.tensors import read_tensors
from ldm.types import Image


class LPIPS(Perceptual):
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
        super().__init__()
        self.frozen = FrozenNetwork(lpips, smallest=32)

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        x, y = self.frozen.prepared(x), self.frozen.prepared(y)
        return self.frozen.network(x, y).flatten()


class _Compared(Perceptual):
    """Unit-normalised features of every layer that is seen, compared squared."""

    def __init__(self, maps: Maps):
        super().__init__()
        self.maps = maps

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        total = torch.zeros(len(x), device=x.device)
        # One after the other: x wants no gradient, so nothing of it is kept for the backward pass.
        for one, other in zip(self._features(x), self._features(y), strict=True):
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total

    def _features(self, x: Image) -> list[Tensor]:
        return [_unit(layer.float()) for layer in self.maps(x)]


def _unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # The square root of a sum that is never 0 has a gradient everywhere.
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8)


class FeatureDistance(_Compared):
    """Features of several layers of a torchvision network with local weights; see `TorchvisionMaps`.

    Arguments:
        architecture: torchvision's name, as `squeezenet1_1`.
        weights: safetensors or a state dict; the classifier may be missing.
        layers: names, as `torchvision.models.feature_extraction.get_graph_node_names` lists.
        flip180: turn images by 180 degrees first, as weights brought from TensorFlow can need.
        smallest: smaller images are enlarged to this side.
    """

    def __init__(
        self,
        architecture: str,
        weights: Path,
        layers: tuple[str, ...],
        flip180: bool = False,
        smallest: PositiveInt = 32,
    ):
        super().__init__(TorchvisionMaps(architecture, weights, layers, flip180, smallest))


class RandomFeatures(_Compared):
    """Features of a network that was never trained; see `RandomMaps`."""

    def __init__(self, width: PositiveInt = 32, layers: PositiveInt = 3, seed: NonNegativeInt = 0):
        super().__init__(RandomMaps(width, layers, seed))


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
