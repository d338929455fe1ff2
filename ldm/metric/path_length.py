"""Perceptual path length: how far an image moves, to an eye, while the noise that it is made of moves a little (Karras et al.
2019, section 4.1).

Two draws of normal noise are joined by the spherical interpolation (Shoemake 1985), under which each point between has the
length of noise, so that it is as probable as its ends,

    slerp(a, b; t) = [sin((1 - t) w) a + sin(t w) b] / sin w,        cos w = a.b / |a||b|,

and of images G(noise, c) under one and the same context

    path length = E[d(G(slerp(a, b; t)), G(slerp(a, b; t + e))) / e^2],    t ~ U(0, 1),  e = 1e-4,

with a perceptual distance d, LPIPS in the paper, which is quadratic in small differences. As in the paper's code the lowest and
the highest hundredth of the distances are left out. Short paths mean that neighbouring noise gives images alike, and images in
between are images. A model that gives one image whatever its noise has the length 0: it says nothing without diversity beside it.

It is of priors whose sample is a function of one draw of normal noise: flows, GANs, diffusions by a sampler that adds no noise.
Others draw again on the way, or draw numbers that do not change by degrees, and are left out by name.

What makes it fail: a solver with a tolerance, whose error is as large as the step of 1e-4; images that are clipped at black and
white; another network or size of images, which give numbers of another scale.

Sources:
    Karras et al., A Style-Based Generator Architecture for Generative Adversarial Networks (2019), arXiv 1812.04948
    Shoemake, Animating Rotation with Quaternion Curves (1985), doi 10.1145/325165.325242
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.loss.perceptual import Perceptual
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.likelihood import mean_of
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.random import Random, seed_of
from ldm.types import Image

STEP = 1e-4
_KEPT = (0.01, 0.99)  # quantiles between which distances are averaged


def slerp(a: Float[Tensor, " b *d"], b: Float[Tensor, " b *d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b *d"]:
    """The points at t (b,) of the arcs from a to b; where these point the same or opposite ways, of the straight lines."""
    x, y = a.double().flatten(1), b.double().flatten(1)
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-12)
    angle, t = cosine.clamp(-1, 1).acos(), t.double()
    straight = angle.sin() < 1e-6
    sine = torch.where(straight, 1.0, angle.sin())
    of_a = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    of_b = torch.where(straight, t, (t * angle).sin() / sine)
    return (of_a[:, None] * x + of_b[:, None] * y).to(a.dtype).view_as(a)


class Between(Random):
    """Random numbers whose normal ones lie at t between those of two others; numbers that are not normal are the first's.

    Arguments:
        first, second: the ends, of the same rows.
        t: where between them, (b,).

    Attributes:
        streams: of normal numbers, in the order in which they were asked for.
        others: whether other numbers than normal ones were asked for.
    """

    def __init__(self, first: Random, second: Random, t: Float[Tensor, " b"]):
        super().__init__(first.seed, first.step, first.rows, first.total)
        self.t, self.streams, self.others = t, list[str](), False
        self._ends = (first, second)

    def normal(self, stream: str, shape: tuple[int, ...] = ()) -> Float[Tensor, "b ..."]:
        self.streams.append(stream)
        return slerp(*(end.normal(stream, shape) for end in self._ends), self.t)

    def uniform(self, stream: str, shape: tuple[int, ...] = ()) -> Float[Tensor, "b ..."]:
        self.others = True
        return super().uniform(stream, shape)

    def generator(self, stream: str) -> torch.Generator:
        self.others = True
        return super().generator(stream)

    @property
    def broken(self) -> str | None:
        """Why a sample that was drawn by these numbers is no point of a path, in words; None where it is."""
        if self.others:
            return "draws numbers that do not change by degrees"
        if not self.streams:
            return "draws its samples from no normal noise"
        return None if len(self.streams) == 1 else "draws noise again on its way to a sample"


def path(seed: int, rows: Tensor, t: Float[Tensor, " b"]) -> Between:
    """At t (b,) of a path between two independent draws, one for each number in rows (b,), the same draws for every t."""
    first, second = (Random(seed_of(seed, "path", end), 0, rows) for end in ("from", "to"))
    return Between(first, second, t)


class PathLength(Metric):
    """`path_length_<distance>` by each distance: the mean over examples, each with two draws of noise under its own caption or
    label, with its standard error. Two samples are drawn for each example.

    Arguments:
        distances: by name.
        seed: of the noise.
    """

    names = ("path_length_*",)

    def __init__(self, distances: dict[str, Perceptual], seed: int = 0):
        self.distances, self.seed = distances, seed
        self._values = [torch.zeros(0, len(distances), dtype=torch.float64)]
        self._hashes = [torch.zeros(0, dtype=torch.int64)]
        self._came = "no samples"

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        model, batch = examples.model, examples.batch
        if model is None or batch is None or examples.generated is None:
            return
        where = Random(seed_of(self.seed, "path length"), 0, examples.index.to(model.device)).uniform("place")
        images = []
        for t in (where, where.double() + STEP):
            between = path(self.seed, examples.index.to(model.device), t)
            images.append(model.sample(batch, between))
            if between.broken is not None:
                self._came = f"a prior of the family {type(model.prior).__name__}, which here {between.broken}"
                return
        self._hashes.append(image_hashes(eight_bits(examples.real)))
        self._values.append(self._lengths(*images))

    def _lengths(self, x: Image, y: Image) -> Float[Tensor, "b n"]:
        found = [distance.to(x.device)(x, y) / STEP**2 for distance in self.distances.values()]
        return torch.stack(found, 1).double().cpu()

    def measure(self) -> list[Measurement]:
        values, hashes = gather_rows(torch.cat(self._values)), gather_rows(torch.cat(self._hashes))
        names = [f"path_length_{name}" for name in self.distances]
        if len(values) == 0:
            leave_out(", ".join(names), "a prior that makes a sample of one draw of normal noise", self._came)
            return []
        found = []
        for name, distance, column in zip(names, self.distances, values.unbind(1), strict=True):
            low, high = (column.quantile(q, interpolation="lower") for q in _KEPT)
            mean = mean_of(name, column[(column >= low) & (column <= high)], set_hash(hashes), None)
            found.append(dataclasses.replace(mean, n=len(column), features=distance, rounded=False))
        return found
