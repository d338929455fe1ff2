"""Distances of images in the features of a frozen network.

LPIPS (arXiv 1801.03924, equation 1): unit-normalised features of several layers, squared differences, channels weighted by
learnt numbers, averaged over space, summed over layers. `FeatureDistance` is the same without the learnt weights, over any
torchvision network, for where the calibrated networks cannot be had.

Gradients flow through the network to the image; its weights are frozen, and no part of any checkpoint: they are held outside the
module tree, since they are named by where they came from and never change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.types import Image

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Perceptual(nn.Module, ABC):
    """forward(x, y) -> (b,), how different two images (b, 1 | 3, h, w) in [-1, 1] look; 0 for equal ones."""

    def __init__(self, network: nn.Module, smallest: int):
        super().__init__()
        self._network = [network.eval().requires_grad_(False)]
        self.smallest = smallest

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        network = self._network[0].to(x.device)
        return self._distance(network, self._prepared(x), self._prepared(y))

    def _prepared(self, x: Image) -> Image:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"a perceptual loss sees images of 1 or 3 channels, got {x.shape[1]}; take loss=kl for others")
        x = x.expand(-1, 3, -1, -1)
        short = min(x.shape[-2:])
        if short >= self.smallest:
            return x
        return F.interpolate(x, scale_factor=self.smallest / short, mode="bilinear", align_corners=False)

    @abstractmethod
    def _distance(self, network: nn.Module, x: Image, y: Image) -> Float[Tensor, " b"]: ...


class LPIPS(Perceptual):
    """LPIPS as torchmetrics has it, with its learnt layer weights.

    Arguments:
        network: which; `vgg` is customary as a loss.
        backbone: torchvision's ImageNet weights of it from a local file; None downloads them (torch's hub cache).
    """

    def __init__(self, network: Literal["vgg", "alex", "squeeze"] = "vgg", backbone: Path | None = None):
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        try:
            lpips = _NoTrainLpips(net=network, pnet_rand=backbone is not None)
        except OSError as error:  # URLError is one
            raise OSError(
                f"LPIPS could not download its {network} backbone ({error}); give loss.perceptual.backbone=FILE, or take "
                "loss=kl, which needs no network"
            ) from error
        if backbone is not None:
            _load_slices(lpips.net, _weights(backbone), backbone)
        super().__init__(lpips, smallest=32)

    def _distance(self, network: nn.Module, x: Image, y: Image) -> Float[Tensor, " b"]:
        return network(x, y).flatten()


class FeatureDistance(Perceptual):
    """Unit-normalised features of several layers of a torchvision network with local weights, compared squared.

    Arguments:
        architecture: torchvision's name, as `squeezenet1_1`.
        weights: safetensors or a state dict; the classifier may be missing.
        layers: names of the layers compared, as `torchvision.models.feature_extraction.get_graph_node_names` lists.
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
        import torchvision.models
        from torchvision.models.feature_extraction import create_feature_extractor

        network = torchvision.models.get_model(architecture, weights=None)
        known = network.state_dict()
        found = _weights(weights)
        missing = [name for name in known if name not in found and not name.startswith(("classifier", "fc", "head"))]
        if missing:
            raise ValueError(f"{weights} lacks {len(missing)} tensors of {architecture}, as {missing[:3]}")
        network.load_state_dict({k: v.float() for k, v in found.items() if k in known}, strict=False)
        super().__init__(create_feature_extractor(network.eval(), list(layers)), smallest)
        self.flip180 = flip180

    def _distance(self, network: nn.Module, x: Image, y: Image) -> Float[Tensor, " b"]:
        both = (torch.cat([x, y]) + 1) / 2
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        both = (both - mean) / std
        features = network(both.flip(2, 3) if self.flip180 else both)
        total = torch.zeros(len(x), device=x.device)
        for layer in features.values():
            one, other = F.normalize(layer.float(), dim=1, eps=1e-6).chunk(2)
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_slices(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """torchvision's `features.N` into torchmetrics' slices, whose names end in the same N."""
    state = net.state_dict()
    renamed = {name: "features." + name.split(".", 2 if name.startswith("slices.") else 1)[-1] for name in state}
    missing = [wanted for wanted in renamed.values() if wanted not in weights]
    if missing:
        raise ValueError(f"{path} lacks {missing[:3]}: it is not torchvision's network of that name")
    net.load_state_dict({name: weights[wanted] for name, wanted in renamed.items()})
