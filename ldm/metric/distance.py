"""Distances between two sets of images in the features of a network.

Fréchet (arXiv 1706.08500, eq. 6): between Gaussians with the sets' means and covariances,
    |mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)),
by torchmetrics, in float64. It is biased upwards by about 1/n: compare only equal n. With fewer images than features
the covariances are singular; the value is still defined and still comparable at equal n.

Kernel (KID, arXiv 1801.01401): the unbiased estimate of the squared maximum mean discrepancy under
k(x, y) = (x.y / d + 1)^3,
    sum_{i != j} k(x_i, x_j) / n(n - 1) + sum_{i != j} k(y_i, y_j) / m(m - 1) - 2 sum_{ij} k(x_i, y_j) / nm,
over all pairs at once. Averages over random subsets, as torchmetrics and others report, have this same expectation and
more variance, depend on the global random generator, and the spread of their overlapping subsets is no standard error;
that is why KID is computed here, with a jackknife over both samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.metric.features import FeatureNetwork, available, eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric
from ldm.metric.pretrained import Inception2015
from ldm.types import Image

_BLOCK = 1024


@dataclass(frozen=True)
class FeatureSet:
    """The features of a set of images, and what they are features of.

    Attributes:
        features: (n, d) float32 on the CPU.
        images_hash: of the 8-bit images, whatever their order.
        network, network_hash: the feature network's name and `weights_hash`.
        inception: whether the network is the one that FID is defined by.
    """

    features: Float[Tensor, "n d"]
    images_hash: str
    network: str
    network_hash: str
    inception: bool

    def save(self, path: Path) -> None:
        """One safetensors file, for a reference set that is measured against again and again."""
        facts = {"images_hash": self.images_hash, "network": self.network, "network_hash": self.network_hash}
        facts["inception"] = "yes" if self.inception else "no"
        save_file({"features": self.features.contiguous()}, path, metadata=facts)

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        with safe_open(path, framework="pt") as file:
            facts, features = file.metadata(), file.get_tensor("features")
        return cls(features, facts["images_hash"], facts["network"], facts["network_hash"], facts["inception"] == "yes")


class FeatureCollector:
    """Features of images that arrive in batches, on one rank or on many.

    Every rank adds its own share; no image may be added twice, a last batch that was filled up included.
    """

    def __init__(self, network: FeatureNetwork):
        self.network = network
        self._features = [torch.zeros(0, network.width)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]

    @property
    def count(self) -> int:
        """Images added on this rank."""
        return sum(map(len, self._hashes))

    def add(self, images: Image) -> None:
        """Add a batch in [-1, 1] of 1, 3 or 4 channels, on the device of the network."""
        features = self.network(images)
        if not torch.isfinite(features).all():
            raise ValueError(f"{self.network.name} gave features that are not finite; its weights are bad")
        self._features.append(features.cpu())
        self._hashes.append(image_hashes(eight_bits(images)))

    def gather(self) -> FeatureSet:
        """The whole set; with several ranks every rank calls it and every rank gets all of it."""
        features, hashes = gather_rows(torch.cat(self._features)), gather_rows(torch.cat(self._hashes))
        inception = isinstance(self.network, Inception2015)
        return FeatureSet(features, set_hash(hashes), self.network.name, self.network.weights_hash, inception)


class _Given(nn.Module):
    """The 'network' that hands torchmetrics the features that are known already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(generated: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance of two sets of features, at least two each."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # here, because it takes seconds to import

    metric = FrechetInceptionDistance(_Given(generated.shape[1]), sync_on_compute=False)
    centre = reference.double().mean(0)  # the distance does not see a common shift; sums of squares lose digits to it
    for features, real in ((generated, False), (reference, True)):
        for block in features.split(_BLOCK):
            metric.update(block.double() - centre, real=real)
    return max(float(metric.compute()), 0.0)


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of k(x_i, y_j) over j, (n,), and over i, (m,)."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(_BLOCK):
        kernel = (block @ y.T / x.shape[1] + 1) ** 3
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows), columns


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[float, float]:
    """The squared MMD, unbiased, and its jackknife standard error; at least three samples each."""
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise ValueError(f"a kernel distance needs at least 3 images of each kind, got {n} and {m}")
    x, y = x.double(), y.double()
    within = []
    for z in (x, y):
        diagonal = ((z * z).sum(1) / z.shape[1] + 1) ** 3
        within.append(_kernel_sums(z, z)[0] - diagonal)
    cross_x, cross_y = _kernel_sums(x, y)
    (xx, yy), cross = (w.sum() for w in within), cross_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * cross / (n * m)
    # The same formula with one x, or one y, left out.
    without_x = (xx - 2 * within[0]) / ((n - 1) * (n - 2)) - 2 * (cross - cross_x) / ((n - 1) * m)
    without_y = (yy - 2 * within[1]) / ((m - 1) * (m - 2)) - 2 * (cross - cross_y) / (n * (m - 1))
    variance = (n - 1) * without_x.var(unbiased=False) + (m - 1) * without_y.var(unbiased=False)
    return float(value), float(variance.sqrt())


def _at_most(features: Tensor, limit: int) -> Tensor:
    """`limit` rows, spread evenly."""
    if len(features) <= limit:
        return features
    return features[torch.linspace(0, len(features) - 1, limit).long()]


def distances(generated: FeatureSet, reference: FeatureSet, kernel_limit: int = 10_000) -> list[Measurement]:
    """The Fréchet and the kernel distance: `fid`, `kid` in Inception's features, `fd_<network>`, `kd_<network>` else.

    Arguments:
        kernel_limit: images of each kind that the kernel distance looks at, its cost being their square.

    Raises:
        ValueError: features of two networks, or fewer than 3 images.
    """
    if (generated.network, generated.network_hash) != (reference.network, reference.network_hash):
        raise ValueError(
            f"features of {generated.network} ({generated.network_hash}) cannot be compared with features of "
            f"{reference.network} ({reference.network_hash}); collect both with one network"
        )
    fid, kid = ("fid", "kid") if generated.inception else (f"fd_{generated.network}", f"kd_{generated.network}")
    few, few_reference = _at_most(generated.features, kernel_limit), _at_most(reference.features, kernel_limit)
    kernel, error = kernel_distance(few, few_reference)
    common = {
        "features": generated.network,
        "features_hash": generated.network_hash,
        "reference_hash": reference.images_hash,
        "rounded": True,
    }
    frechet = frechet_distance(generated.features, reference.features)
    return [
        Measurement(metric=fid, value=frechet, standard_error=None, n=len(generated.features), **common),
        Measurement(metric=kid, value=kernel, standard_error=error, n=len(few), **common),
    ]


class Distances(Metric):
    """`distances` of generated images, or of reconstructions, from the real ones, in every network that can be had.

    Networks are built when the first batch comes, so that a run that never measures never downloads; one that is not to
    be had costs a warning and its numbers, and the others go on.

    Arguments:
        networks: constructors of feature networks by name (`_partial_` nodes of a config), in the order of the records.
        of: which images; those of reconstructions are named `reconstruction_fid`, `reconstruction_fd_<network>`.
        kernel_limit: see `distances`.
    """

    def __init__(
        self,
        networks: dict[str, Callable[[], FeatureNetwork]],
        of: Literal["generated", "reconstruction"] = "generated",
        kernel_limit: PositiveInt = 10_000,
    ):
        self.networks, self.of, self.kernel_limit = networks, of, kernel_limit
        self._pairs: list[tuple[FeatureCollector, FeatureCollector]] = []

    def add(self, examples: Examples) -> None:
        images = examples.generated if self.of == "generated" else examples.reconstruction
        if images is None:
            return
        if not self._pairs:
            networks = [network.to(examples.real.device) for network in available(self.networks)]
            self._pairs = [(FeatureCollector(network), FeatureCollector(network)) for network in networks]
        for generated, reference in self._pairs:
            generated.add(images)
            reference.add(examples.real)

    def measure(self) -> list[Measurement]:
        """The numbers; none where nothing was generated."""
        found = [
            measurement
            for generated, reference in self._pairs
            for measurement in distances(generated.gather(), reference.gather(), self.kernel_limit)
        ]
        if self.of == "generated":
            return found
        return [replace(measurement, metric=f"reconstruction_{measurement.metric}") for measurement in found]
