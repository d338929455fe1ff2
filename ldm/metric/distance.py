"""Distances between two sets of images in the features of a network.

Fréchet (arXiv 1706.08500, eq. 6): between Gaussians with the sets' means and covariances,
    |mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)),
by torchmetrics, in float64. It is biased upwards by about 1/n: compare only equal n. With fewer images than features
the covariances are singular; the value is still defined and still comparable at equal n.

Kernel (KID, arXiv 1801.01401): the squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3, estimated without
bias over all pairs of images at once,
    sum_{i != j} k(x_i, x_j) / n(n - 1) + sum_{i != j} k(y_i, y_j) / m(m - 1) - 2 sum_{ij} k(x_i, y_j) / nm.
Averages over random subsets, as torchmetrics and others report, have this same expectation and more variance, depend on
the global random generator, and the spread of their overlapping subsets is no standard error.

Pairs. Where x_i was drawn for the caption of the real image y_i, or is its reconstruction, the two are dependent,
E k(x_i, y_i) is larger than E k(x_i, y_j), and the terms i = j of the cross sum pull the estimate below 0 for sets of one
law. The pairs z_i = (x_i, y_i) are still independent of each other, so that
    sum_{i != j} h(z_i, z_j) / n(n - 1),   h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)
has no bias (Gretton et al. 2012, JMLR 13, eq. 4): the same sums without i = j anywhere. Drawing for the captions of other
images of the set would only move the dependent terms to other places. The Fréchet distance has no such sum to leave out: for
d-dimensional Gaussians of one law N(mu, 1) and pairs of correlation r its bias is 2 (1 - r) d / n + (1 - r^2) d (d + 1) / 2n
to first order, lower than that of independent sets. So a record says `paired`, and what differs in it is not compared.

Error of the kernel distance. A mean over pairs is theta + 2/n sum_i g(z_i) + 1/n(n - 1) sum_{i != j} r(z_i, z_j), with
parts that are uncorrelated (Hoeffding), so its variance is 4 E g^2 / n + 2 E r^2 / n(n - 1). The jackknife, one pair left
out at a time, has the expectation 4 E g^2 / n + 4 E r^2 / n(n - 2) (Efron and Stein 1981, doi 10.1214/aos/1176345462): right
for sets that differ, sqrt 2 too large for sets of one law, where g = 0. E r^2 is estimated without bias by the matrix
h without its row and column means, squared and summed over i != j, over n(n - 3) (Székely and Rizzo 2014, doi
10.1214/14-AOS1255); the jackknife less 4 E r^2 / n(n - 2), at least 0, plus 2 E r^2 / n(n - 1) is the variance. For
independent sets one x and one y are left out in turn, and the three kernel matrices have one such part each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ldm.metric import precision_recall
from ldm.metric.feature_set import FeatureCollector, FeatureSet
from ldm.metric.features import FeatureNetwork, available
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out

SMALLEST_FRECHET, SMALLEST_KERNEL = 2, 4  # images of each set
_BLOCK = 1024


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


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], paired: bool) -> tuple[float, float]:
    """The squared MMD, unbiased, and its standard error.

    Arguments:
        paired: whether x_i and y_i belong together.

    Raises:
        ValueError: fewer than 4 samples, or pairs of unequal number.
    """
    n, m = len(x), len(y)
    if min(n, m) < SMALLEST_KERNEL:
        raise ValueError(f"a kernel distance needs at least {SMALLEST_KERNEL} images of each kind, got {n} and {m}")
    if paired and n != m:
        raise ValueError(f"pairs are of equal number, got {n} and {m} images")
    value, variance = (_of_pairs if paired else _of_independent)(x.double(), y.double())
    return value, variance**0.5


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _of_pairs(x: Tensor, y: Tensor) -> tuple[float, float]:
    def h(rows: slice) -> Tensor:
        within = _kernel(x[rows], x) + _kernel(y[rows], y)
        return within - _kernel(x[rows], y) - _kernel(y[rows], x)

    n = len(x)
    sums, rest = _symmetric(h, n)
    total = sums.sum()
    without = (total - 2 * sums) / ((n - 1) * (n - 2))
    jackknife = float((n - 1) * without.var(unbiased=False))
    variance = max(jackknife - 4 * rest / (n * (n - 2)), 0.0) + 2 * rest / (n * (n - 1))
    return float(total / (n * (n - 1))), variance


def _of_independent(x: Tensor, y: Tensor) -> tuple[float, float]:
    n, m = len(x), len(y)
    within_x, rest_x = _symmetric(lambda rows: _kernel(x[rows], x), n)
    within_y, rest_y = _symmetric(lambda rows: _kernel(y[rows], y), m)
    cross_x, cross_y, rest = _cross(lambda rows: _kernel(x[rows], y), n, m)
    xx, yy, cross = within_x.sum(), within_y.sum(), cross_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * cross / (n * m)
    # The same formula with one x, or one y, left out; what does not change is left away.
    without_x = (xx - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (cross - cross_x) / ((n - 1) * m)
    without_y = (yy - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (cross - cross_y) / (n * (m - 1))
    jackknife = float((n - 1) * without_x.var(unbiased=False) + (m - 1) * without_y.var(unbiased=False))
    counted = 4 * rest_x / (n * (n - 2)) + 4 * rest_y / (m * (m - 2)) + 8 * rest / (n * m)
    true = 2 * rest_x / (n * (n - 1)) + 2 * rest_y / (m * (m - 1)) + 4 * rest / (n * m)
    return float(value), max(jackknife - counted, 0.0) + true


def _symmetric(matrix: Callable[[slice], Tensor], n: int) -> tuple[Float[Tensor, " n"], float]:
    """Of a symmetric matrix (n, n), given by rows: sums over j != i, and E r^2, the mean square of what no sum of a row's
    and a column's effect explains."""
    sums, squares = [], 0.0
    for start in range(0, n, _BLOCK):
        block = matrix(slice(start, start + _BLOCK))
        block.diagonal(start).zero_()
        sums.append(block.sum(1))
        squares += float(block.square().sum())
    rows = torch.cat(sums)
    rest = squares - 2 * float(rows.square().sum()) / (n - 2) + float(rows.sum()) ** 2 / ((n - 1) * (n - 2))
    return rows, max(rest, 0.0) / (n * (n - 3))


def _cross(matrix: Callable[[slice], Tensor], n: int, m: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"], float]:
    """Of a matrix (n, m), given by rows: its sums over columns and over rows, and E r^2."""
    sums, columns, squares = [], torch.zeros(m, dtype=torch.float64), 0.0
    for start in range(0, n, _BLOCK):
        block = matrix(slice(start, start + _BLOCK))
        sums.append(block.sum(1))
        columns += block.sum(0)
        squares += float(block.square().sum())
    rows = torch.cat(sums)
    rest = squares - float(rows.square().sum()) / m - float(columns.square().sum()) / n
    rest += float(rows.sum()) ** 2 / (n * m)
    return rows, columns, max(rest, 0.0) / ((n - 1) * (m - 1))


def _at_most(features: Tensor, limit: int) -> Tensor:
    """`limit` rows, spread evenly."""
    if len(features) <= limit:
        return features
    return features[torch.linspace(0, len(features) - 1, limit).long()]


def compare(
    generated: FeatureSet, reference: FeatureSet, paired: bool, limit: int = 10_000, prefix: str = ""
) -> list[Measurement]:
    """All numbers of two sets: Fréchet and kernel distance, `fid` and `kid` in Inception's features and `fd_<network>` and
    `kd_<network>` else; `precision_`, `recall_`, `density_` and `coverage_<network>`.

    What needs more images than there are is left out, with a word.

    Arguments:
        paired: whether the i-th images of both belong together.
        limit: images of each kind that everything but the Fréchet distance looks at, its cost being their square.
        prefix: of the numbers' names.

    Raises:
        ValueError: features of two networks, or pairs of unequal number.
    """
    if (generated.network, generated.network_hash) != (reference.network, reference.network_hash):
        raise ValueError(
            f"features of {generated.network} ({generated.network_hash}) cannot be compared with features of "
            f"{reference.network} ({reference.network_hash}); collect both with one network"
        )
    network, n = generated.network, min(len(generated.features), len(reference.features))
    x, y = (_at_most(each.features, limit) for each in (generated, reference))
    names = ("fid", "kid") if generated.inception else (f"fd_{network}", f"kd_{network}")
    fid, kid, *shares = [
        prefix + name for name in (*names, *(f"{share}_{network}" for share in precision_recall.NAMES))
    ]
    found: dict[str, tuple[float, float | None]] = {}
    if _enough(fid, n, SMALLEST_FRECHET):
        found[fid] = frechet_distance(generated.features, reference.features), None
    if _enough(kid, n, SMALLEST_KERNEL):
        found[kid] = kernel_distance(x, y, paired)
    if _enough(", ".join(shares), n, precision_recall.SMALLEST):
        found |= zip(shares, precision_recall.precision_recall(x, y, paired).values(), strict=True)
    return [
        Measurement(
            metric=metric,
            value=value,
            standard_error=error,
            n=len(generated.features) if metric == fid else len(x),
            features=network,
            features_hash=generated.network_hash,
            reference_hash=reference.images_hash,
            paired=paired,
            rounded=True,
        )
        for metric, (value, error) in found.items()
    ]


def _enough(metric: str, images: int, wanted: int) -> bool:
    if images < wanted:
        leave_out(metric, f"at least {wanted} images of each kind", str(images))
    return images >= wanted


Kind = Literal["generated", "reconstruction"]


class Distances(Metric):
    """All numbers of `compare` for generated images, or reconstructions, beside the real ones, in every network that can
    be had. An image passes once through a network, whatever is measured with it.

    Networks are built when the first batch comes, so that a run that never measures never downloads; one that is not to
    be had, or cannot see images so small, costs a warning and its numbers, and the others go on.

    Arguments:
        networks: constructors of feature networks by name (`_partial_` nodes of a config), in the order of the records.
        of: which images; the numbers of reconstructions are named `reconstruction_fid`, `reconstruction_fd_<network>` ...
        limit: see `compare`.
    """

    def __init__(
        self,
        networks: dict[str, Callable[[], FeatureNetwork]],
        of: tuple[Kind, ...] = ("generated",),
        limit: PositiveInt = 10_000,
    ):
        self.networks, self.of, self.limit = networks, of, limit
        self._sets: dict[str, dict[str, FeatureCollector]] | None = None
        self._came, self._paired = {kind: False for kind in of}, False

    def add(self, examples: Examples) -> None:
        images = {"generated": examples.generated, "reconstruction": examples.reconstruction}
        images = {kind: images[kind] for kind in self.of if images[kind] is not None}
        if not images:
            return
        if self._sets is None:
            self._sets = self._empty(examples.real.device, tuple(examples.real.shape[-2:]))
        for sets in self._sets.values():
            for kind, batch in (images | {"real": examples.real}).items():
                sets[kind].add(batch, examples.index)
        self._came |= dict.fromkeys(images, True)
        self._paired |= examples.paired

    def measure(self) -> list[Measurement]:
        """The numbers; none where nothing was generated."""
        paired, *came = gather_rows(torch.tensor([[self._paired, *self._came.values()]]).long()).amax(0).tolist()
        if not any(came):
            return []
        if self._sets is None:  # all images came to other ranks
            self._sets = self._empty(torch.device("cpu"), None)
        everywhere = gather_rows(torch.tensor([[name in self._sets for name in self.networks]]).long()).amin(0).tolist()
        found = []
        for name in [name for name, there in zip(self.networks, everywhere, strict=True) if there]:
            real = self._sets[name]["real"].gather()
            for kind in [kind for kind, some in zip(self.of, came, strict=True) if some]:
                images, original = self._sets[name][kind].gather(), kind == "reconstruction"
                prefix = "reconstruction_" if original else ""
                found += compare(images, real, original or bool(paired), self.limit, prefix)
        return found

    def _empty(self, device: torch.device, size: tuple[int, int] | None) -> dict[str, dict[str, FeatureCollector]]:
        """A collector for each kind of image, by network; None for the size of images that came to no batch."""
        found = {}
        for name, network in available(self.networks).items():
            if size is not None and min(size) < network.smallest:
                wanted = f"images of at least {network.smallest} x {network.smallest} pixels"
                leave_out(f"every number of {network.name}", wanted, f"{size[0]} x {size[1]}")
                continue
            network = network.to(device)
            found[name] = {kind: FeatureCollector(network) for kind in ("real", *self.of)}
        return found
