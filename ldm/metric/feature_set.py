"""The features of a set of images: collected batch by batch, on one rank or on many, and stored in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.features import FeatureNetwork
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.pretrained import Inception2015
from ldm.metric.scene import RealImages, Scene
from ldm.tensors import hash_of
from ldm.types import Image


@dataclass(frozen=True)
class FeatureSet:
    """The features of a set of images, and which images and which network they are of.

    Fields:
        features: (n, d) float32 on the CPU.
        images_hash: a hash of the 8-bit images that does not depend on their order.
        network, network_hash: name and `weights_hash` of the feature network.
        inception: whether the network is the one that defines FID.
    """

    features: Float[Tensor, "n d"]
    images_hash: str
    network: str
    network_hash: str
    inception: bool

    def save(self, path: Path) -> None:
        """Write one safetensors file, for a reference set that is used many times."""
        facts = {"images_hash": self.images_hash, "network": self.network, "network_hash": self.network_hash}
        facts["inception"] = "yes" if self.inception else "no"
        save_file({"features": self.features.contiguous()}, path, metadata=facts)

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        """Read a file that `save` wrote."""
        with safe_open(path, framework="pt") as file:
            facts, features = file.metadata(), file.get_tensor("features")
        return cls(features, facts["images_hash"], facts["network"], facts["network_hash"], facts["inception"] == "yes")


class FeatureCollector:
    """Collects the features of images that arrive in batches, on one rank or on many.

    Every rank adds its own images. No image may be added twice, so a last batch must not be filled up with others.

    Arguments:
        network: the feature network.
        batch: images at once through it.
    """

    def __init__(self, network: FeatureNetwork, batch: PositiveInt = 64):
        self.network, self.batch = network, batch
        self._features = [torch.zeros(0, network.width)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._index = [torch.zeros(0, dtype=torch.int64)]

    @property
    def count(self) -> int:
        """Number of images that were added on this rank."""
        return sum(map(len, self._hashes))

    def add(self, images: Image, index: Int[Tensor, " b"]) -> None:
        """Add a batch of images (b, c, h, w) in [-1, 1] with 1, 3 or 4 channels, on the network's device; `index` (b,) is the
        place of each in the set. ValueError where a feature is not finite."""
        features = torch.cat([self.network(part) for part in images.split(self.batch)])
        if not torch.isfinite(features).all():
            raise ValueError(f"{self.network.name} gave features that are not finite; its weights are bad")
        self._features.append(features.cpu())
        self._hashes.append(image_hashes(eight_bits(images)))
        self._index.append(index.cpu())

    def gather(self) -> FeatureSet:
        """The whole set in the order of `index`, whatever the batches and ranks. With several ranks all of them have to call
        this, and each gets the whole set."""
        return as_set(self.network, self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """The whole set as `features` (n, d) and `hashes` (n,) of the images, in order; called as `gather`."""
        features, hashes, index = (gather_rows(torch.cat(rows)) for rows in (self._features, self._hashes, self._index))
        order = index.argsort()
        return {"features": features[order], "hashes": hashes[order]}


def as_set(network: FeatureNetwork, tensors: dict[str, Tensor]) -> FeatureSet:
    """The set that `FeatureCollector.tensors` gave of a network."""
    inception = isinstance(network, Inception2015)
    return FeatureSet(tensors["features"], set_hash(tensors["hashes"]), network.name, network.weights_hash, inception)


def features_of(network: FeatureNetwork, images: RealImages, scene: Scene, batch: PositiveInt = 64) -> FeatureSet:
    """The features of real images in their order, computed by all ranks, or found where they were kept."""

    def make() -> dict[str, Tensor]:
        collector = FeatureCollector(network, batch)
        for places in scene.shares(len(images), batch):
            if places:
                real = images.batch(places)["image"].to(scene.device)
                collector.add(real, torch.tensor(places))
        return collector.tensors()

    key = hash_of({}, images.key, network.weights_hash, batch)[:20]
    made_from = {"split": images.split, "weights": network.weights_hash}
    return as_set(network, scene.artifacts.kept("features", key, made_from, make))
