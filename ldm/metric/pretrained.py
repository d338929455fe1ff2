"""Pretrained feature networks: the Inception of FID, classifiers of torchvision, and ResNets for CIFAR-10.

Their weights are local files or, for Inception, a download that is verified by its SHA-256. Only tensors are read from them,
whatever they contain. A network that is not available, also because its file is damaged or that of another network, raises
`FeaturesUnavailable`, so that a run can continue without it.

Sources:
    He et al., Deep Residual Learning for Image Recognition (2015), arXiv 1512.03385
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.metric.features import FeatureNetwork, FeaturesUnavailable, Judging, standardized
from ldm.tensors import read_tensors

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of safetensors, or in a `.pth` or `.pt` file, of which nothing but tensors is unpickled.
    FeaturesUnavailable where there is none."""
    if not path.is_file():
        raise FeaturesUnavailable(f"no weights at {path}; give the path of a .safetensors or .pth file")
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        raise FeaturesUnavailable(str(error)) from error
    return {key: v.float() if v.is_floating_point() else v for key, v in tensors.items()}


def load_weights(network: nn.Module, path: Path, name: str, optional: tuple[str, ...] = ()) -> None:
    """Load a file of weights into a network called `name`; FeaturesUnavailable where it is that of another network. Tensors
    whose names begin with one of `optional` may be missing."""
    found = read_weights(path)
    # The update counters of batch norms need not be in a file.
    wanted = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    wrong = [f"{key} is missing" for key in sorted(wanted.keys() - found.keys()) if not key.startswith(optional)]
    wrong += [f"{key} is not expected" for key in sorted(found.keys() - network.state_dict().keys())]
    wrong += [
        f"{key} is {tuple(found[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & found.keys())
        if found[key].shape != wanted[key].shape
    ]
    if wrong:
        raise FeaturesUnavailable(f"{path} is not {name}: {'; '.join(wrong[:5])}")
    network.load_state_dict(found, strict=False)


class Inception2015(Judging):
    """TensorFlow's Inception of 2015-12-05 in the port of torch-fidelity. Only a distance in its features is called `fid`.

    The whole computation, with the resizing of images, is that of torch-fidelity. The default of torchmetrics has
    antialiasing since its version 1.5, and so differs from published numbers. The weights are verified by their SHA-256.

    Arguments:
        weights: `weights-inception-2015-12-05-6726825d.pth`; None takes it from torch's hub cache, or downloads it.
        timeout: seconds without an answer after which the download is given up.

    Raises:
        FeaturesUnavailable: the file is not there and cannot be downloaded, or it is another file.
    """

    score = "inception_score"

    def __init__(self, weights: Path | None = None, timeout: PositiveInt = 15):
        super().__init__()
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as fidelity
        except ImportError as error:
            raise FeaturesUnavailable("FID needs torch-fidelity: pip install torch-fidelity") from error
        path = _downloaded(fidelity.URL_INCEPTION_V3, timeout) if weights is None else weights
        if not path.is_file() or _sha256(path) != INCEPTION_SHA256:
            raise FeaturesUnavailable(
                f"{path} is missing or not the Inception of 2015 (SHA-256 {INCEPTION_SHA256[:8]}...); "
                "its features would not give FID"
            )
        # torch-fidelity unpickles the file that it is given, so it is given a copy that contains only tensors.
        safe = io.BytesIO()
        torch.save(read_weights(path), safe)
        safe.seek(0)
        self.network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], safe)
        self._settle("inception_2015", 2048)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        # Without the bias, as the Inception score was published.
        return features @ self.network.fc.weight.T


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _downloaded(url: str, timeout: int) -> Path:
    """The file at `url` in torch's hub cache. A download is verified and then moved there in one step."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=timeout) as answer,
            tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file,
        ):
            part = Path(file.name)
            shutil.copyfileobj(answer, file)
        if _sha256(part) != INCEPTION_SHA256:
            raise OSError("what came is not that file")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:  # no network, no answer, half an answer
        raise FeaturesUnavailable(
            f"could not download {path.name} ({type(error).__name__}: {error}); put it at {path} or give weights=PATH"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


class TorchvisionFeatures(FeatureNetwork):
    """The features before the last linear layer of a torchvision classifier, with weights from a local file.

    Arguments:
        architecture: torchvision's name of the network, as `mobilenet_v2`.
        weights: a file with a state dict, safetensors or `.pth`; the classifier may be missing in it. None takes torchvision's
            best from torch's hub cache, or downloads them.
        size: side that images are resized to.
        flip180: turn images by 180 degrees first, which weights converted from TensorFlow can need.
        name: the name in the names of numbers, as `fd_<name>`; by default that of the architecture.
    """

    def __init__(
        self,
        architecture: str,
        weights: Path | None = None,
        size: PositiveInt = 224,
        flip180: bool = False,
        name: str | None = None,
    ):
        super().__init__()
        import torchvision.models

        if architecture not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"torchvision has no classifier {architecture!r}; see torchvision.models.list_models()")
        self.size, self.flip180 = size, flip180
        network = torchvision.models.get_model(architecture, weights=None)
        weights = _published(architecture) if weights is None else weights
        load_weights(network, weights, architecture, optional=("classifier.", "fc.", "head", "heads."))
        self.network = network
        self._drop_classifier()
        with torch.no_grad():
            width = self.eval().embed(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[1]
        self._settle(name or architecture, width, size, flip180)

    def _drop_classifier(self) -> None:
        linear = [key for key, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        if linear and linear[-1].split(".")[0] in ("classifier", "fc", "head", "heads"):
            self.network.set_submodule(linear[-1], nn.Identity())
        else:  # SqueezeNet's classifier is a convolution; its pooled input is taken
            self.network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def embed(self, pixels: Tensor) -> Tensor:
        x = standardized(pixels, self.size)
        return self.network(x.flip(2, 3) if self.flip180 else x).flatten(1)


def _published(architecture: str) -> Path:
    """torchvision's best weights of a network, in torch's hub cache."""
    from torchvision.models import get_model_weights

    url = get_model_weights(architecture).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:  # URLError is one
        raise FeaturesUnavailable(
            f"could not download torchvision's {architecture} ({error}); put it at {path} or give weights=PATH"
        ) from error
    return path


class _Block(nn.Module):
    """A residual block conv-bn-relu-conv-bn, whose shortcut is subsampled and padded with zero channels (option A)."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.pad = stride, (out - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad)))


class CifarResNet(FeatureNetwork):
    """The 64 pooled features of a ResNet for CIFAR-10 (He et al. 2015, section 4.2, shortcuts of option A), with weights from a
    local file.

    Arguments:
        weights: a file with a state dict with the names `conv1, bn1, layer1..3.N.{conv,bn}{1,2}, linear`.
        depth: number of layers, 6n + 2.
    """

    def __init__(self, weights: Path, depth: Literal[20, 32, 44, 56, 110] = 20):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *(_Block(32, 32, 1) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *(_Block(64, 64, 1) for _ in range(n - 1)))
        self.linear = nn.Linear(64, 10)
        load_weights(self, weights, f"cifar10_resnet{depth}")
        self._settle(f"cifar10_resnet{depth}", 64)

    def embed(self, pixels: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(standardized(pixels, 32))))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def logits(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 10"]:
        """The logits of the classes of CIFAR-10, (b, 10), in their usual order."""
        return self.linear(self.embed(pixels))
