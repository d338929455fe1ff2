"""Feature maps of frozen networks, for perceptual distances and for alignment.

A network stays frozen and in evaluation mode, and is kept outside of the module tree. So it is not part of checkpoints,
averages, parameter counts or DDP's broadcasts: it never changes, and is named by where it came from. It is moved to the
device of the images that it is given.

Sources:
    Oquab et al., DINOv2: Learning Robust Visual Features without Supervision (2023), arXiv 2304.07193
    Darcet et al., Vision Transformers Need Registers (2023), arXiv 2309.16588
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ldm.random import seed_of
from ldm.tensors import hash_of, read_tensors
from ldm.types import Image

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of ImageNet
_CLASSIFIERS = ("classifier", "fc", "head")  # torchvision's names of classifiers, behind the features
_RECTIFIERS = nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.ELU | nn.SiLU | nn.Hardswish | nn.Hardtanh


class Sees:
    """A part of a loss by which a pretrained network judges images, so that a distance in the features of this network is not
    independent of training."""

    @classmethod
    def sees(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the networks that a part of this config node sees, as feature networks have them; none by default."""
        return ()


class FrozenNetwork:
    """A frozen network together with how images are prepared for it. It is not a module, so that a module that has it as an
    attribute does not register it.

    Arguments:
        network: the network.
        smallest: smaller images are enlarged to this side, because the strides of the network need it.
    """

    def __init__(self, network: nn.Module, smallest: int):
        self.network, self.smallest = network.float().eval().requires_grad_(False), smallest

    def prepared(self, x: Image) -> Float[Tensor, "b 3 h2 w2"]:
        """Images (b, c, h, w) as RGB and enlarged where they are too small, (b, 3, h2, w2). Moves the network to their
        device."""
        if next(self.network.parameters()).device != x.device:
            self.network.to(x.device)
        x, short = rgb(x.float()), min(x.shape[-2:])
        if short >= self.smallest:
            return x
        return F.interpolate(x, scale_factor=self.smallest / short, mode="bilinear", align_corners=False)


def rgb(x: Image) -> Float[Tensor, "b 3 h w"]:
    """Images in [-1, 1] with 1, 3 or 4 channels as RGB: grey is repeated, and transparency composited on white. ValueError
    for another number of channels."""
    if x.shape[1] in (1, 3):
        return x.expand(-1, 3, -1, -1)
    if x.shape[1] != 4:
        raise ValueError(
            f"a network's features are of images with 1, 3 or 4 channels; got {x.shape[1]}: take alignment=none, "
            "loss.perceptual=null or the LaplacianPyramid, which takes any"
        )
    alpha = (x[:, 3:] + 1) / 2
    return x[:, :3] * alpha + 1 - alpha


class Maps(FrozenNetwork, Sees):
    """The feature maps of some layers of a network, with gradients for the image where it needs them.

    Arguments:
        network: maps images standardised as for ImageNet to {name: map (b, d, h, w)}.
        smallest: smaller images are enlarged to this side.
        flip180: turn images by 180 degrees first, and the maps back.
        settings: everything else that the maps depend on besides the weights.
    """

    def __init__(self, network: nn.Module, smallest: int, flip180: bool = False, settings: Sequence[Any] = ()):
        super().__init__(network, smallest)
        self.flip180 = flip180
        self._settings = repr((type(self).__name__, smallest, flip180, *settings))

    def __call__(self, x: Image) -> list[Float[Tensor, "b _d _h _w"]]:
        x = self.prepared(x)
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        x = ((x + 1) / 2 - mean) / std
        if self.flip180:
            return [seen.flip(2, 3) for seen in self.network(x.flip(2, 3)).values()]
        return list(self.network(x).values())

    @property
    def key(self) -> str:
        """A text that names everything on which the maps of an image depend: settings and weights."""
        return f"{self._settings} {hash_of(self.network.state_dict())}"


class TorchvisionMaps(Maps):
    """The maps of some layers of a torchvision network with local weights.

    Arguments:
        architecture: torchvision's name of the network, as `squeezenet1_1`.
        weights: a file of safetensors or with a state dict; the classifier may be missing in it.
        layers: names as `torchvision.models.feature_extraction.get_graph_node_names` lists them.
        flip180: turn images by 180 degrees first, which weights converted from TensorFlow can need.
        smallest: smaller images are enlarged to this side.

    Raises:
        ValueError: no such architecture or layer, or the weights are of another network.
    """

    @classmethod
    def sees(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        return (node["architecture"],)

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
                module.inplace = False  # in place it would overwrite the layer before it, which may be one of `layers`
        network = create_feature_extractor(network, list(layers))
        super().__init__(network, smallest, flip180, (architecture, *layers))


class RandomMaps(Maps):
    """The maps of all layers of a convolutional network with random weights, which are a function of the seed.

    Arguments:
        width: channels of the first layer; each further one halves the sides and doubles the channels.
        layers: number of layers.
        seed: of the weights, which are never trained.
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


class DinoMaps(Maps):
    """The patch tokens of the last layer of a DINOv2 (Oquab et al. 2023; with registers: Darcet et al. 2023), by the library
    `transformers`. Images are resized to the next lower multiple of the network's patch.

    Arguments:
        source: a directory or a hub name, as `facebook/dinov2-base`.
        smallest: smaller images are enlarged to this side.

    Raises:
        ImportError: transformers is missing. OSError: nothing at `source`. ValueError: it is no DINOv2.
    """

    @classmethod
    def sees(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        return (short_name(node["source"]),)

    def __init__(self, source: str, smallest: PositiveInt = 224):
        super().__init__(_Patches(source), smallest)


def short_name(source: str) -> str:
    """Of a network on the hub or in a directory, for names of numbers: `facebook/dinov2-base` is `dinov2_base`."""
    return Path(source).name.lower().replace("-", "_").replace(".", "_")


class _Patches(nn.Module):
    def __init__(self, source: str):
        super().__init__()
        try:
            import transformers
        except ImportError as error:
            raise ImportError("alignment=dinov2 needs transformers: pip install 'ldm[clip]'") from error
        kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind not in ("dinov2", "dinov2_with_registers"):
            raise ValueError(f"{source} is a {kind}; wanted a dinov2 or dinov2_with_registers")
        self.model = transformers.AutoModel.from_pretrained(source, trust_remote_code=False, use_safetensors=True)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        patch = self.model.config.patch_size
        height, width = (max(1, side // patch) for side in x.shape[2:])
        x = F.interpolate(x, size=(height * patch, width * patch), mode="bilinear", antialias=True)
        tokens = self.model(pixel_values=x).last_hidden_state[:, -height * width :]  # without class and registers
        return {"patches": rearrange(tokens, "b (h w) c -> b c h w", h=height)}
