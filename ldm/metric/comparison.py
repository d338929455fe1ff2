"""All numbers of two sets of images in the features of one network, each with its name, its error and what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ldm.metric import frechet, kernel, precision_recall
from ldm.metric.feature_set import FeatureSet
from ldm.metric.frechet import Frechet, Ratio
from ldm.metric.measurement import Measurement
from ldm.metric.metric import leave_out


@dataclass(frozen=True)
class Comparison:
    """Two sets of images in the features of one network.

    A number that needs more images than there are is left out, with a warning.

    Fields:
        generated, reference: the two sets.
        paired: whether image i of the one belongs to image i mod m of the other. Where sets are of different sizes, all but the
            Fréchet distance are then of the first images of both.
        prefix: of the names of the numbers.

    Raises:
        ValueError: the features are of two networks.
    """

    generated: FeatureSet
    reference: FeatureSet
    paired: bool
    prefix: str = ""

    def __post_init__(self) -> None:
        one, other = self.generated, self.reference
        if (one.network, one.network_hash) != (other.network, other.network_hash):
            raise ValueError(
                f"features of {one.network} ({one.network_hash}) cannot be compared with features of "
                f"{other.network} ({other.network_hash}); collect both with one network"
            )

    @property
    def names(self) -> list[str]:
        """Of the numbers: both distances, and the four shares."""
        network = self.generated.network
        both = ["fid", "kid"] if self.generated.inception else [f"fd_{network}", f"kd_{network}"]
        return [self.prefix + name for name in (*both, *(f"{share}_{network}" for share in precision_recall.NAMES))]

    @cached_property
    def distance(self) -> Frechet | None:
        """The Fréchet distance; None where there are too few images."""
        if not _enough(self.names[0], self._smaller, frechet.SMALLEST):
            return None
        return frechet.frechet(self.generated.features, self.reference.features)

    def numbers(self, limit: int = 10_000) -> list[Measurement]:
        """Both distances, precision, recall, density and coverage.

        Arguments:
            limit: the greatest number of images of each set for everything but the Fréchet distance, since the cost grows with
                its square.
        """
        fid, kid, *shares = self.names
        n, found = self._smaller, list[Measurement]()
        x, y = (
            _at_most(each.features[:n] if self.paired else each.features, limit)
            for each in (self.generated, self.reference)
        )
        if self.distance is not None:
            found.append(self._frechet(fid, self.distance))
        if _enough(kid, n, kernel.SMALLEST):
            found.append(self.number(kid, *kernel.kernel_distance(x, y, self.paired), "jackknife", len(x)))
        if _enough(", ".join(shares), n, precision_recall.SMALLEST):
            values = precision_recall.precision_recall(x, y, self.paired).values()
            for name, (value, error) in zip(shares, values, strict=True):
                found.append(self.number(name, value, error, "halves", len(x)))
        return found

    def of_parts(self, sizes: Sequence[int]) -> list[Measurement]:
        """The Fréchet distance of the first so many generated images, as `fd_<network>_of_1000`."""
        found = []
        for size in sizes:
            name = f"{self.names[0]}_of_{size}"
            if size > len(self.generated.features):
                leave_out(name, f"{size} samples", str(len(self.generated.features)))
            elif _enough(name, min(size, len(self.reference.features)), frechet.SMALLEST):
                part = frechet.frechet(self.generated.features[:size], self.reference.features)
                found.append(self._frechet(name, part))
        return found

    def of_ratio(self, ratio: Ratio) -> Measurement:
        """The ratio of the distance to that of real images, as `fdr_<network>`."""
        name = f"fdr_{self.generated.network}"
        return self.number(name, ratio.value, ratio.error(self.paired), "jackknife", len(ratio.of_generated))

    def number(self, metric: str, value: float, error: float | None, way: str, n: int) -> Measurement:
        """A number of these two sets, of n generated images."""
        return Measurement(
            metric=metric,
            value=value,
            standard_error=error,
            n=n,
            features=self.generated.network,
            features_hash=self.generated.network_hash,
            reference_hash=self.reference.images_hash,
            paired=self.paired,
            rounded=True,
            error=None if error is None else way,
        )

    def _frechet(self, name: str, distance: Frechet) -> Measurement:
        return self.number(name, distance.value, distance.error(self.paired), "jackknife", len(distance.of_generated))

    @property
    def _smaller(self) -> int:
        return min(len(self.generated.features), len(self.reference.features))


def compare(
    generated: FeatureSet, reference: FeatureSet, paired: bool, limit: int = 10_000, prefix: str = ""
) -> list[Measurement]:
    """All numbers of two sets of images, as `Comparison` has them."""
    return Comparison(generated, reference, paired, prefix).numbers(limit)


def _at_most(features: Tensor, limit: int) -> Tensor:
    """At most `limit` rows, spread evenly over all rows."""
    if len(features) <= limit:
        return features
    return features[torch.linspace(0, len(features) - 1, limit).long()]


def _enough(metric: str, images: int, wanted: int) -> bool:
    if images < wanted:
        leave_out(metric, f"at least {wanted} images of each kind", str(images))
    return images >= wanted
