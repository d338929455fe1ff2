"""Distances of images in the features of a frozen network.

LPIPS (Zhang et al. 2018, equation 1) takes the features of several layers, scales those of each pixel to unit length over
channels, and sums the squared differences with one learnt weight for each channel, averaged over pixels and summed over
layers. `FeatureDistance` does the same without the learnt weights, over any network: one of torchvision's, where those of LPIPS
cannot be downloaded, or one that was never trained, which needs nothing and is weaker, but still better than a distance
of pixels (the same paper, section 4).

Sources:
    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018), arXiv 1801.03924
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.alignment.maps import FrozenNetwork, Maps, Sees
from ldm.loss.perceptual import Perceptual
from ldm.tensors import read_tensors
from ldm.types import Image

_ARCHITECTURES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


class LPIPS(Perceptual, Sees):
    """LPIPS as torchmetrics has it, with its learnt layer weights.

    Arguments:
        network: which network; `vgg` is the usual one for a loss.
        backbone: a local file with torchvision's ImageNet weights of it; None downloads them to torch's hub cache.

    Raises:
        OSError: the download failed. ValueError: the file is of another network.
    """

    @classmethod
    def sees(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        return (_ARCHITECTURES[node.get("network", "vgg")],)

    def __init__(self, network: Literal["vgg", "alex", "squeeze"] = "vgg", backbone: Path | None = None):
        from torchmetrics.functional.image.lpips import _LPIPS

        state = _published(network) if backbone is None else read_tensors(backbone)
        lpips = _LPIPS(net=network, pnet_rand=True)
        _load_slices(lpips.net, state, str(backbone or network))
        super().__init__()
        self.frozen = FrozenNetwork(lpips, smallest=32)

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        """The distance of each pair of images, (b,), with gradients for y."""
        x, y = self.frozen.prepared(x), self.frozen.prepared(y)
        return self.frozen.network(x, y).flatten()


class FeatureDistance(Perceptual):
    """Squared differences of features of unit length, averaged over pixels and summed over layers.

    Arguments:
        maps: gives the features: of a torchvision network with local weights (`TorchvisionMaps`), or of one that was never
            trained (`RandomMaps`).
    """

    def __init__(self, maps: Maps):
        super().__init__()
        self.maps = maps

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        total = torch.zeros(len(x), device=x.device)
        # In two passes: x needs no gradient, so none of its activations are kept for the backward pass.
        for one, other in zip(self._features(x), self._features(y), strict=True):
            total = total + (one - other).square().sum(1).mean((1, 2))
        return total

    def _features(self, x: Image) -> list[Tensor]:
        return [_unit(layer.float()) for layer in self.maps(x)]


def _unit(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # The small number keeps the gradient finite where all channels are 0.
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-8)


def _published(network: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights, from torch's hub cache or downloaded to it."""
    from torchvision.models import get_model_weights

    name = _ARCHITECTURES[network]
    url = get_model_weights(name).DEFAULT.url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:  # URLError is one
        raise OSError(
            f"LPIPS needs torchvision's {name} and could not download it ({error}); put the file into "
            f"{torch.hub.get_dir()}/checkpoints, give loss.perceptual.backbone=FILE, or take loss=kl"
        ) from error


def _load_slices(net: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load torchvision's tensors `features.N` into torchmetrics' slices, whose names end in the same N."""
    state = net.state_dict()
    renamed = {name: "features." + name.split(".", 2 if name.startswith("slices.") else 1)[-1] for name in state}
    wrong = [w for name, w in renamed.items() if w not in weights or weights[w].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{source} lacks {wrong[:3]} as LPIPS wants them: not torchvision's network of that name")
    net.load_state_dict({name: weights[wanted] for name, wanted in renamed.items()})
