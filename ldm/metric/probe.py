"""Probes: how much of the labels of images the latents of a first stage tell, to a reader that can do next to nothing.

From the latents of labelled training images the labels of held-out ones are told in two ways (Alain and Bengio 2016 of the first,
Wu et al. 2018 of the second):

    probe_linear     ridge regression of each class's indicator, of which the largest answer is taken,
                     W = argmin |X W - Y|^2 + penalty |W|^2, of numbers with mean 0 and variance 1 over training images
    probe_nearest    the label of the nearest training latent, of latents whitened by channel

The penalty is that of a few by which the labels of the training images themselves, each left out in turn, are told best: with the
hat matrix H = 1/n + X (X^T X + penalty)^-1 X^T the answer without row i is Y_i - (Y - HY)_i / (1 - H_ii). The intercept has no
penalty. Both are closed forms, so the same on every machine, up to rounding, and number of ranks.

Latents are what the decoder is given of the mean of q(z|x): codes are their vectors. Latents of more numbers than `numbers` are
averaged over neighbouring places first. A linear probe tells what is laid out in straight directions, a nearest neighbour what
is close as a whole: pixels of centred digits are good at both. Either is about recognition, and a latent that is good for
generation need not be good at it. The number of training latents raises accuracy, so numbers are compared at an equal one; the
hash in a record is of both sets.

Sources:
    Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes (2016), arXiv 1610.01644
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination (2018), arXiv 1805.01978
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor

from ldm.autoencoder.autoencoder import Autoencoder
from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows, image_hashes, set_hash
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.scene import Scene
from ldm.types import Image

PENALTIES = tuple(10.0**k for k in range(-4, 2))  # each times the number of training latents
_BATCH, _BLOCK = 64, 1024


class Probe(Metric):
    """`probe_linear` and `probe_nearest`: the shares of held-out images whose labels are told, with binomial errors.

    Arguments:
        training: the most training images whose latents are read; time and memory grow with its square.
        numbers: of a latent, above which neighbouring places are averaged.
    """

    names = ("probe_linear", "probe_nearest")

    needs = ("label",)

    def __init__(self, training: PositiveInt = 4000, numbers: PositiveInt = 2048):
        self.training, self.numbers = training, numbers
        self._autoencoder: Autoencoder | None = None  # known once a batch has come
        self._learnt, self._told = _Rows(), _Rows()  # of training and of held-out images, on this rank

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        if scene.training is None:
            raise ValueError(
                "metric=probe reads training images by their rows, and data.train is streamed: take another metric=, as "
                "offline, or data that are not"
            )
        if scene.training.labels is None:
            raise ValueError(_unlabelled("train"))

    @torch.no_grad()
    def add(self, examples: Examples) -> None:
        if examples.model is None or examples.batch is None:
            return
        if "label" not in examples.batch:
            raise ValueError(_unlabelled("val"))
        if self._autoencoder is None:
            self._autoencoder = examples.model.autoencoder
            self._read(*_place())
        self._told.add(self._latents(examples.real), examples.real, examples.batch["label"], examples.index)

    def measure(self) -> list[Measurement]:
        self._read_for_others()
        learnt, told = self._learnt.gather(), self._told.gather()
        if learnt is None or told is None:
            came = f"{0 if learnt is None else len(learnt.z)} and {0 if told is None else len(told.z)}"
            leave_out("probe_linear, probe_nearest", "labelled training and held-out images", came)
            return []
        reference = set_hash(torch.cat([learnt.hashes, told.hashes]))
        told_by = {"probe_linear": linear, "probe_nearest": nearest}
        return [
            _share(name, found(learnt.z, learnt.labels, told.z) == told.labels, reference)
            for name, found in told_by.items()
        ]

    def _read(self, rank: int, world: int) -> None:
        """The latents of a rank's training images; nothing is asked of other ranks."""
        if self.scene is None or self.scene.training is None:
            raise ValueError("a probe learns from training images: begin(scene) comes before the first batch")
        training = self.scene.training
        own = range(rank, min(self.training, len(training)), world)
        for start in range(0, len(own), _BATCH):
            places = list(own[start : start + _BATCH])
            batch = training.batch(places)
            x = batch["image"].to(self._autoencoder.latent_mean.device)
            self._learnt.add(self._latents(x), x, batch["label"], torch.tensor(places))

    @torch.no_grad()
    def _read_for_others(self) -> None:
        """The training images of ranks that no batch has told the model, where held-out images are fewer than ranks."""
        told = gather_rows(torch.tensor([self._autoencoder is not None])).tolist()
        rank, world = _place()
        if self._autoencoder is not None and rank == told.index(True):
            for other in range(world):
                if not told[other]:
                    self._read(other, world)

    def _latents(self, x: Image) -> Float[Tensor, "b d"]:
        own = self._autoencoder
        z = own.bottleneck.restore(own.posterior(x).mean).float()
        z = (z - own.latent_mean[:, None, None]) / own.latent_std[:, None, None]
        while z[0].numel() > self.numbers and max(z.shape[2:]) > 1:
            z = F.avg_pool2d(z, 2, ceil_mode=True)
        return z.flatten(1)


def linear(z: Float[Tensor, "n d"], labels: Int[Tensor, " n"], told: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
    """The labels (m,) that ridge regression on latents (n, d) and their labels (n,) tells of other latents."""
    classes, which = labels.unique(return_inverse=True)
    z, told = z.double(), told.double()
    mean, std = z.mean(0), z.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    x, n = (z - mean) / std, len(z)
    y = F.one_hot(which, len(classes)).double()
    left, squares, right = _singular(x)
    fitted = left.T @ (y - y.mean(0))

    def right_ones(penalty: float) -> int:
        """How many of the training labels are told, each by the others."""
        factor = squares / (squares + penalty)
        rest = y - y.mean(0) - left @ (factor[:, None] * fitted)
        leverage = 1 / n + left.square() @ factor
        alone = y - rest / (1 - leverage).clamp(min=1e-9)[:, None]
        return int((alone.argmax(1) == which).sum())

    penalty = max((share * n for share in reversed(PENALTIES)), key=right_ones)  # of equally good ones the greatest
    weights = right @ (squares.sqrt() / (squares + penalty))[:, None].mul(fitted)
    return classes[((told - mean) / std @ weights + y.mean(0)).argmax(1)]


def _singular(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, " r"], Float[Tensor, "d r"]]:
    """Singular vectors of x and squares of its singular values, but for those that are 0; of the smaller of x x^T and x^T x."""
    tall = len(x) >= x.shape[1]
    squares, vectors = torch.linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = squares > 1e-10 * squares[-1:].clamp(min=1e-300)
    squares, vectors = squares[kept], vectors[:, kept]
    others = (x if tall else x.T) @ vectors / squares.sqrt()
    return (others, squares, vectors) if tall else (vectors, squares, others)


def nearest(z: Float[Tensor, "n d"], labels: Int[Tensor, " n"], told: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
    """The label (m,) of the latent of z (n, d) that is nearest to each of others; of equally near ones the first's."""
    z = z.double()
    found = [torch.cdist(block.double(), z).argmin(1) for block in told.split(_BLOCK)]
    return labels[torch.cat(found)]


class _Rows:
    """Latents of labelled images with their labels, on this rank; a line of numbers each, for a rank without images does not
    know how many numbers a latent has."""

    def __init__(self) -> None:
        self._z = [torch.zeros(0)]
        self._labels, self._index, self._hashes = ([torch.zeros(0, dtype=torch.int64)] for _ in range(3))

    def add(self, z: Float[Tensor, "b d"], x: Image, labels: Int[Tensor, " b"], index: Int[Tensor, " b"]) -> None:
        known = (labels >= 0).cpu()  # -1 is none
        self._z.append(z.cpu()[known].flatten())
        self._labels.append(labels.cpu()[known])
        self._index.append(index.cpu()[known])
        self._hashes.append(image_hashes(eight_bits(x))[known])

    def gather(self) -> _Labelled | None:
        """Those of all ranks in the order of their index; None where there is none."""
        z, labels, index, hashes = (
            gather_rows(torch.cat(each)) for each in (self._z, self._labels, self._index, self._hashes)
        )
        if len(index) == 0:
            return None
        index, order = index.sort(stable=True)
        order = order[torch.cat([index.new_ones(1), index.diff()]) > 0]  # each once
        return _Labelled(z.view(len(index), -1)[order], labels[order], hashes[order])


@dataclass(frozen=True)
class _Labelled:
    """Latents (n, d), labels (n,) and the hashes of the images (n,)."""

    z: Tensor
    labels: Tensor
    hashes: Tensor


def _place() -> tuple[int, int]:
    """The number of this rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _share(name: str, right: Bool[Tensor, " m"], reference: str) -> Measurement:
    n, share = len(right), right.double().mean().item()
    error = math.sqrt(share * (1 - share) / n)
    return Measurement(metric=name, value=share, standard_error=error, n=n, reference_hash=reference)


def _unlabelled(split: str) -> str:
    return (
        f"metric=probe tells labels, and data.{split} has none: name the column of the labels (data.{split}.label=COLUMN), put "
        "the images into a folder for each class, or take another metric=, as offline"
    )
