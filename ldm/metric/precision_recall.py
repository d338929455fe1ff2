"""Precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), and density and coverage (Naeem et al. 2020, equations 3
and 4), of a set of samples, in the features of a network.

The ball of an image reaches to its k-th nearest neighbour among the other images of its set. Precision is the share of
samples that lie in the ball of any real image, and recall is the share of real images that lie in the ball of any sample.
Density is the mean number of balls of real images that a sample lies in, divided by k, and coverage is the share of balls of
real images that contain a sample. k is 3 for the first two and 5 for the others, as in the papers. All values depend on the
number of images.

Paired sets. A sample x_i that was drawn for the caption of the real image y_i lies nearer to y_i than to unrelated real images.
Therefore x_i is tested against the balls of the other real images only, and y_i does not count as a neighbour in them. Since
x_i is independent of all real images but y_i, precision, recall and density have the expectation of independent sets of n
samples and n - 1 real images. Coverage tests one ball against all samples together and remains too high for paired sets. So a
record says whether sets are `paired`.

Standard errors. The results of the images are not independent, because one image is the neighbour of many. A binomial error
is too small, by up to a half, and a jackknife that leaves out images or groups of images is too large by about as much. An
estimate from half of the images has twice the variance of one from all of them, and two disjoint halves are independent. So
the variance is computed as the mean of (a - b)^2 / 4 over random halves with estimates a and b. For 40 to 400 Gaussian points
this is within a fifth of the true spread (tests/metric); of coverage between .37 and .996 it was .85 to 1.04 of it, where a
binomial error was .52 to 1.02. Coverage that is 1 in all halves has the error 0, which says no more than that.

Sources:
    Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (2019),
        arXiv 1904.06991
    Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (2020), arXiv 2002.09797
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldm.random import Random

NAMES = ("precision", "recall", "density", "coverage")
# The fewest images in each set: the centre of a ball, 5 neighbours, and one in place of a left-out partner.
SMALLEST = 7
_K, _K_DENSITY = 3, 5
_BLOCK = 1024
_SPLITS, _POOL = 16, 2000  # how often halves are drawn for the errors, and from how many images of each set at most
_NEARLY_ALL = 0.95  # a coverage above which a few balls decide
_ROUNDING = 1e-12  # the rounding error of squared distances in double precision, relative to the largest squared norm


def precision_recall(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], paired: bool
) -> dict[str, tuple[float, float | None]]:
    """Value and standard error of the four numbers, by their names; the error is None where a set has fewer than 14 images, and
    of a coverage above .95, which a few balls decide: halves then give .4 to .6 of the true spread.

    Arguments:
        generated, reference: the features of samples (n, d) and of real images (m, d).
        paired: whether rows i of both belong together.

    Raises:
        ValueError: a set has fewer than `SMALLEST` images, or paired sets are of different sizes.
    """
    n, m = len(generated), len(reference)
    if min(n, m) < SMALLEST:
        raise ValueError(f"precision and recall need at least {SMALLEST} images of each kind, got {n} and {m}")
    if paired and n != m:
        raise ValueError(f"pairs are of equal number, got {n} and {m} images")
    centre = reference.double().mean(0)
    x, y = generated.double() - centre, reference.double() - centre
    rounding = _ROUNDING * float(torch.cat([x, y]).square().sum(1).max())
    values = _shares(_Squares(x, x), _Squares(y, y), _Squares(x, y), _Squares(y, x), paired, rounding)
    errors = _errors(x, y, paired, rounding)
    errors = [None] * len(NAMES) if errors is None else errors.tolist()
    errors[3] = errors[3] if values[3] <= _NEARLY_ALL else None
    return dict(zip(NAMES, zip(values.tolist(), errors, strict=True), strict=True))


class _Squares:
    """The squared distances between two sets, (n, m), computed only for the rows that are indexed."""

    def __init__(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]):
        self.a, self.b, self.norms = a, b, b.square().sum(1)

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: slice) -> Float[Tensor, "b m"]:
        a = self.a[rows]
        return a.square().sum(1)[:, None] + self.norms - 2 * a @ self.b.T


def _blocks(squares: _Squares | Tensor) -> Iterator[tuple[int, Float[Tensor, "b m"]]]:
    """Blocks of rows of squared distances, each with the number of its first row."""
    for start in range(0, len(squares), _BLOCK):
        yield start, squares[start : start + _BLOCK]


def _nearest(squares: _Squares | Tensor, k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The squared distances and the numbers of the k nearest neighbours of each point, given a set's distances to itself."""
    parts = []
    for start, block in _blocks(squares):
        block = block.clone()
        block.diagonal(start).fill_(torch.inf)
        parts.append(block.topk(k, dim=1, largest=False))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _inside(
    block: Float[Tensor, "b m"],
    start: int,
    nearest: tuple[Float[Tensor, "m _"], Int[Tensor, "m _"]],
    k: int,
    paired: bool,
    rounding: float,
) -> Bool[Tensor, "b m"]:
    """Which points lie in which balls of the other set.

    In paired sets a point does not count as being in the ball of its partner, and the radii of the other balls are computed
    without the partner.

    Arguments:
        block: squared distances of the points to all m points of the other set.
        start: the number of the first point of the block.
        nearest: the neighbours of the other set's points within their own set, at least k + 1 of them.
        k: the number of neighbours that a ball reaches to.
        paired: whether points of equal numbers belong together.
        rounding: an absolute tolerance for squared distances.
    """
    squares, numbers = nearest
    reach = squares[:, k - 1].repeat(len(block), 1)
    if paired:
        block = block.clone()
        block.diagonal(start).fill_(torch.inf)
        ball, place = torch.where((numbers[:, :k] >= start) & (numbers[:, :k] < start + len(block)))
        reach[numbers[ball, place] - start, ball] = squares[ball, k]
    return block <= reach + rounding


def _shares(
    xx: _Squares | Tensor,
    yy: _Squares | Tensor,
    xy: _Squares | Tensor,
    yx: _Squares | Tensor,
    paired: bool,
    rounding: float,
) -> Float[Tensor, " 4"]:
    """Precision, recall, density and coverage of samples x and real images y, from squared distances."""
    near_x, near_y = _nearest(xx, _K + 1), _nearest(yy, _K_DENSITY + 1)
    recalled = sum(int(_inside(block, i, near_x, _K, paired, rounding).any(1).sum()) for i, block in _blocks(yx))
    precise, count, hit = 0, 0, torch.zeros(len(yy), dtype=torch.bool)
    for i, block in _blocks(xy):
        precise += int(_inside(block, i, near_y, _K, paired, rounding).any(1).sum())
        inside = _inside(block, i, near_y, _K_DENSITY, paired, rounding)
        count, hit = count + int(inside.sum()), hit | inside.any(0)
    n, m = len(xx), len(yy)
    shares = (precise / n, recalled / m, count / (_K_DENSITY * n), int(hit.sum()) / m)
    return torch.tensor(shares, dtype=torch.float64)


def _errors(x: Tensor, y: Tensor, paired: bool, rounding: float) -> Float[Tensor, " 4"] | None:
    """The standard errors of the four numbers; None where there are too few images."""
    n, m = len(x), len(y)
    share = min(1 / 2, _POOL / 2 / max(n, m))
    size_x, size_y = int(share * n), int(share * m)
    if min(size_x, size_y) < SMALLEST:
        return None
    x, y = (z[torch.linspace(0, len(z) - 1, 2 * size).long()] for z, size in ((x, size_x), (y, size_y)))
    xx, yy, xy = (_Squares(a, b)[:] for a, b in ((x, x), (y, y), (x, y)))
    squares = []
    for split in range(_SPLITS):
        of_x = Random(0, split, torch.arange(len(x))).uniform("samples").argsort()
        of_y = of_x if paired else Random(0, split, torch.arange(len(y))).uniform("real images").argsort()
        first, second = (
            _shares(xx[i][:, i], yy[j][:, j], xy[i][:, j], xy[i][:, j].T, paired, rounding)
            for i, j in zip(of_x.split(size_x), of_y.split(size_y), strict=True)
        )
        squares.append((first - second).square() / 2)
    return (share * torch.stack(squares).mean(0)).sqrt()
