"""Distances between two sets of images in the features of a network.

Fréchet distance (FID, Heusel et al. 2017, equation 6): the distance between Gaussians with the means mu and the covariances
S of the two sets,
    |mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)),
computed by torchmetrics in float64. It has an upward bias of order 1/n, so only values at equal n can be compared. With fewer
images than features the covariances are singular; the value is still defined, and comparable at equal n.

Kernel distance (KID, Bińkowski et al. 2018): the squared maximum mean discrepancy for the kernel k(x, y) = (x.y / d + 1)^3 of
d features, estimated without bias over all pairs of images,
    sum_{i != j} k(x_i, x_j) / n(n - 1) + sum_{i != j} k(y_i, y_j) / m(m - 1) - 2 sum_{ij} k(x_i, y_j) / nm.
Averages over random subsets, which torchmetrics and others report, have the same expectation and a greater variance, depend on
the global random generator, and the spread of overlapping subsets is not a standard error.

Paired sets. Where x_i was drawn for the caption of the real image y_i, or is its reconstruction, the two are dependent. Then
E k(x_i, y_i) is greater than E k(x_i, y_j), and the terms i = j of the last sum make the estimate negative for sets of the
same distribution. The pairs z_i = (x_i, y_i) are still independent of each other, so that
    sum_{i != j} h(z_i, z_j) / n(n - 1),   h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)
has no bias (Gretton et al., A Kernel Two-Sample Test (2012), JMLR 13, equation 4). It is the same sum without all terms
i = j. Drawing images for the captions of other images of the set would only move the dependent terms to other places. The
Fréchet distance has no such terms to leave out: for d-dimensional Gaussians of the same distribution N(mu, 1), and a
correlation r within pairs, its bias is 2 (1 - r) d / n + (1 - r^2) d (d + 1) / 2n to first order, which is less than that of
independent sets. So a record says whether sets are `paired`, and records that differ in this are not compared.

Standard error of the kernel distance. The mean over pairs is theta + 2/n sum_i g(z_i) + 1/n(n - 1) sum_{i != j} r(z_i, z_j)
with uncorrelated terms (Hoeffding's decomposition), so its variance is 4 E g^2 / n + 2 E r^2 / n(n - 1). The jackknife, which
leaves out one pair at a time, has the expectation 4 E g^2 / n + 4 E r^2 / n(n - 2) (Efron and Stein, The Jackknife Estimate of
Variance (1981), doi 10.1214/aos/1176345462). This is right for sets that differ; for sets of the same distribution, where
g = 0, its square root is too large by sqrt 2. An unbiased estimate of E r^2 is the sum over i != j of the squares of the matrix
h without its row and column effects, divided by n(n - 3) (Székely and Rizzo, Partial Distance Correlation with Methods for
Dissimilarities (2014), doi 10.1214/14-AOS1255). The variance is then the jackknife's less 4 E r^2 / n(n - 2), but at least 0,
plus 2 E r^2 / n(n - 1). For independent sets one x and one y are left out in turn, and each of the three kernel matrices has
such an r.

Sources:
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (2017),
        arXiv 1706.08500
    Bińkowski et al., Demystifying MMD GANs (2018), arXiv 1801.01401
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

SMALLEST_FRECHET, SMALLEST_KERNEL = 2, 4  # the fewest images in each set
_BLOCK = 1024


class _Given(nn.Module):
    """The identity in place of a network, because torchmetrics is given features that are computed already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(generated: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance of two sets of features (n, d) and (m, d), of at least two images each."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # here, because it takes seconds to import

    metric = FrechetInceptionDistance(_Given(generated.shape[1]), sync_on_compute=False)
    # A common shift does not change the distance, but without it sums of squares lose digits.
    centre = reference.double().mean(0)
    for features, real in ((generated, False), (reference, True)):
        for block in features.split(_BLOCK):
            metric.update(block.double() - centre, real=real)
    return max(float(metric.compute()), 0.0)


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], paired: bool) -> tuple[float, float]:
    """The unbiased estimate of the squared maximum mean discrepancy of features x (n, d) and y (m, d), and its standard error.

    Arguments:
        paired: whether x_i and y_i belong together.

    Raises:
        ValueError: a set has fewer than 4 images, or paired sets are of different sizes.
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
    # The same formula with one x, or one y, left out, up to terms that do not change.
    without_x = (xx - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (cross - cross_x) / ((n - 1) * m)
    without_y = (yy - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (cross - cross_y) / (n * (m - 1))
    jackknife = float((n - 1) * without_x.var(unbiased=False) + (m - 1) * without_y.var(unbiased=False))
    counted = 4 * rest_x / (n * (n - 2)) + 4 * rest_y / (m * (m - 2)) + 8 * rest / (n * m)
    true = 2 * rest_x / (n * (n - 1)) + 2 * rest_y / (m * (m - 1)) + 4 * rest / (n * m)
    return float(value), max(jackknife - counted, 0.0) + true


def _symmetric(matrix: Callable[[slice], Tensor], n: int) -> tuple[Float[Tensor, " n"], float]:
    """For a symmetric matrix (n, n), given by a function of blocks of rows: its row sums over j != i, and E r^2, the mean
    square of what remains of the matrix without row and column effects."""
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
    """For a matrix (n, m), given by a function of blocks of rows: its row sums, its column sums, and E r^2."""
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
    """At most `limit` rows, spread evenly over all rows."""
    if len(features) <= limit:
        return features
    return features[torch.linspace(0, len(features) - 1, limit).long()]


def compare(
    generated: FeatureSet, reference: FeatureSet, paired: bool, limit: int = 10_000, prefix: str = ""
) -> list[Measurement]:
    """All measurements of two sets of images in the features of one network.

    They are the Fréchet and the kernel distance, called `fid` and `kid` for the features of Inception and `fd_<network>` and
    `kd_<network>` for others, and `precision_<network>`, `recall_<network>`, `density_<network>` and `coverage_<network>`.
    A number that needs more images than there are is left out, with a warning.

    Arguments:
        generated, reference: the two sets.
        paired: whether the i-th images of both sets belong together.
        limit: the greatest number of images of each set for everything but the Fréchet distance, since the cost grows with
            its square.
        prefix: of the names of the numbers.

    Raises:
        ValueError: the features are of two networks, or paired sets are of different sizes.
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
    """All measurements of `compare` for generated images, or for reconstructions, against the real images, in the features of
    several networks. Every image passes each network once, whatever is measured with it.

    The networks are built when the first batch arrives, so that a run that measures nothing downloads nothing. A network
    that is not available, or that needs larger images, gives a warning, and its numbers are left out.

    Arguments:
        networks: constructors of feature networks by name (`_partial_` nodes of a config), in the order of the records.
        of: which images are measured; numbers of reconstructions are called `reconstruction_fid` and so on.
        limit: as for `compare`.
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
        """The measurements; none where there are no such images."""
        paired, *came = gather_rows(torch.tensor([[self._paired, *self._came.values()]]).long()).amax(0).tolist()
        if not any(came):
            return []
        if self._sets is None:  # this rank was given no images
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
        """A collector for each kind of image, by network. `size` is that of the images, or None where this rank has none."""
        found = {}
        for name, network in available(self.networks).items():
            if size is not None and min(size) < network.smallest:
                wanted = f"images of at least {network.smallest} x {network.smallest} pixels"
                leave_out(f"every number of {network.name}", wanted, f"{size[0]} x {size[1]}")
                continue
            network = network.to(device)
            found[name] = {kind: FeatureCollector(network) for kind in ("real", *self.of)}
        return found
