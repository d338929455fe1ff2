"""Precision and recall of a set of samples (arXiv 1904.06991, eq. 1 and 2), in the features of a network.

A sample is realistic when it lies in a ball around some real image that reaches to that image's k-th nearest real
neighbour; precision is the share of realistic samples, recall the share of real images that lie in such a ball around
a sample. Both depend on n and on k as FID does.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ldm.metric.distance import FeatureSet
from ldm.metric.measurement import Measurement

_BLOCK = 1024


def _radii(points: Tensor, k: int) -> Float[Tensor, " n"]:
    """Distance of each point to its k-th nearest other."""
    near = [torch.cdist(block, points).kthvalue(k + 1, dim=1).values for block in points.split(_BLOCK)]
    return torch.cat(near)


def covered(points: Float[Tensor, "n d"], by: Float[Tensor, "m d"], k: int = 3) -> Bool[Tensor, " n"]:
    """Which points lie in the ball of some element of `by` that reaches to its k-th nearest neighbour in `by`."""
    if len(by) <= k:
        raise ValueError(f"the {k}-th nearest neighbour needs more than {k} images, got {len(by)}")
    radii = _radii(by, k)
    return torch.cat([(torch.cdist(block, by) <= radii).any(1) for block in points.split(_BLOCK)])


def precision_recall(generated: FeatureSet, reference: FeatureSet, k: int = 3) -> list[Measurement]:
    """`precision_<network>` and `recall_<network>`, each with its binomial standard error."""
    if generated.network_hash != reference.network_hash:
        raise ValueError(f"features of {generated.network} and {reference.network}; collect both with one network")
    found = []
    for metric, points, by in (("precision", generated, reference), ("recall", reference, generated)):
        share, n = float(covered(points.features, by.features, k).double().mean()), len(points.features)
        measurement = Measurement(
            metric=f"{metric}_{generated.network}",
            value=share,
            standard_error=(share * (1 - share) / n) ** 0.5,
            n=n,
            features=generated.network,
            features_hash=generated.network_hash,
            reference_hash=reference.images_hash,
            rounded=True,
        )
        found.append(measurement)
    return found
