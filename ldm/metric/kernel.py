"""The kernel distance of two sets of images in the features of a network.

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
i = j.

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
    Bińkowski et al., Demystifying MMD GANs (2018), arXiv 1801.01401
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 4  # the fewest images in each set
_BLOCK = 1024


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], paired: bool) -> tuple[float, float]:
    """The unbiased estimate of the squared maximum mean discrepancy of features x (n, d) and y (m, d), and its standard error.

    Arguments:
        paired: whether x_i and y_i belong together.

    Raises:
        ValueError: a set has fewer than 4 images, or paired sets are of different sizes.
    """
    n, m = len(x), len(y)
    if min(n, m) < SMALLEST:
        raise ValueError(f"a kernel distance needs at least {SMALLEST} images of each kind, got {n} and {m}")
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
