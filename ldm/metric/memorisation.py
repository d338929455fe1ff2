"""Whether samples are copies of training images.

In the features of a network, d(x) is the distance of an image x from the nearest training image. A model that has learnt the law
of the data gives samples whose d has the law of held-out images' d (Meehan et al. 2020, whose test statistic is the first
number, standardised):

    closer_to_training_<network>   P(d(sample) < d(held-out image)), ties counted half: 1/2 where nothing is copied
    copies_<network>               the share of samples closer than all but one in a hundred held-out images: .01 where nothing
                                   is copied, however good the samples; a tenth that are copies give .11

Blurred samples are far from everything and hide copying in the first number, and few copies do, too; the second sees both.
What no such number shows is a copy that the features do not know for one: Stein et al. 2023 find that networks differ in this
and that good samples are flagged as well. So the samples that are closest are shown beside their nearest training images.
Duplicates between the splits (ldm.data.overlap) make held-out images look copied.

The first number's error is that of the Mann-Whitney statistic (DeLong et al. 1988), the second's is binomial; both are given the
training set.

Sources:
    Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models (2020), arXiv 2004.05675
    DeLong et al., Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves (1988),
        doi 10.2307/2531595
    Stein et al., Exposing Flaws of Generative Model Evaluation Metrics and Their Unfair Treatment of Diffusion Models
        (2023), arXiv 2306.04675
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from ldm.eight_bits import eight_bits
from ldm.metric.classifier import Learnt, binomial_error
from ldm.metric.feature_set import features_of
from ldm.metric.features import FeatureNetwork, available, warn_of
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, Picture, leave_out
from ldm.metric.scene import Scene

SHARE = 0.01  # of held-out images that are closer than the threshold of a copy
_BLOCK = 8192


class Memorisation(Metric):
    """`closer_to_training_<network>` and `copies_<network>`, and a picture of the samples that are closest to training.

    Arguments:
        network: constructor of a feature network (a `_partial_` node), or a recipe of one that is trained on the data.
        batch: images at once through it.
        limit: held-out images that samples are compared with.
        shown: samples in the picture.
    """

    names = ("closer_to_training_*", "copies_*")

    def __init__(
        self,
        network: Callable[[], FeatureNetwork] | Learnt,
        batch: PositiveInt = 64,
        limit: PositiveInt = 10_000,
        shown: PositiveInt = 16,
    ):
        self.network, self.batch, self.limit, self.shown = network, batch, limit, shown
        self.needs = network.needs if isinstance(network, Learnt) else ()
        self._built: FeatureNetwork | None = None
        self._distances, self._nearest = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
        self._closest: tuple[Tensor, Tensor, Tensor] | None = None  # distance, number of the training image, pixels

    def missing(self) -> Sequence[str]:
        return () if isinstance(self.network, Learnt) else available({"memorisation": self.network})[1]

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        if not scene.samples:
            return
        if scene.training is None or scene.held_out is None:
            leave_out("closer_to_training", "training images that can be named", "a stream")
            return
        if isinstance(self.network, Learnt):
            self._built = self.network.learn(scene)
        else:
            built, missing = available({"memorisation": self.network})
            warn_of(missing)
            self._built = built["memorisation"].to(scene.device) if built else None
        if self._built is None:
            return
        if min(scene.image_shape[1:]) < self._built.smallest:
            wanted = f"images of at least {self._built.smallest} x {self._built.smallest} pixels"
            leave_out(f"closer_to_training_{self._built.name}", wanted, " x ".join(map(str, scene.image_shape[1:])))
            self._built = None
            return
        self._training = features_of(self._built, scene.training, scene, self.batch)
        held_out = features_of(self._built, scene.held_out.first(self.limit), scene, self.batch)
        self._held_out, self._hash = self._to_training(held_out.features)[0], held_out.images_hash

    def _to_training(self, features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """The distance of each from its nearest training image, and the number of that."""
        found = [torch.cdist(features, part).min(1) for part in self._training.features.split(_BLOCK)]
        best = torch.stack([part.values for part in found]).min(0)
        numbers = torch.stack([part.indices + i * _BLOCK for i, part in enumerate(found)])
        return best.values, numbers.gather(0, best.indices[None])[0]

    def add(self, examples: Examples) -> None:
        if self._built is None or examples.generated is None:
            return
        parts = examples.generated.split(self.batch)
        distances, nearest = self._to_training(torch.cat([self._built(part) for part in parts]).cpu())
        self._distances.append(distances)
        self._nearest.append(nearest)
        new = distances, nearest, eight_bits(examples.generated).cpu()
        if self._closest is not None:
            new = tuple(torch.cat(pair) for pair in zip(self._closest, new, strict=True))
        self._closest = self._smallest(*new)

    def _smallest(self, distances: Tensor, nearest: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = distances.argsort(stable=True)[: self.shown]
        return distances[rows], nearest[rows], pixels[rows]

    def measure(self) -> list[Measurement]:
        d = gather_rows(torch.cat(self._distances)).sort().values
        self._gather_closest()
        if self._built is None or self.scene is None or len(d) < 2:
            return []
        closer, error = closer_than(d, self._held_out)
        name, held_out = self._built.name, self._held_out
        found = [self._of(f"closer_to_training_{name}", closer, error, len(d), "delong")]
        if len(held_out) * SHARE < 1:
            leave_out(f"copies_{name}", f"at least {math.ceil(1 / SHARE)} held-out images", str(len(held_out)))
        else:
            threshold = held_out.sort().values[int(len(held_out) * SHARE)]
            copies = float((d < threshold).double().mean())
            found.append(self._of(f"copies_{name}", copies, binomial_error(copies, len(d)), len(d), "binomial"))
        return found

    def _gather_closest(self) -> None:
        channels, (height, width) = 3, self.scene.image_shape[1:] if self.scene else (1, 1)
        empty = torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, channels, height, width).byte()
        self._closest = self._smallest(*map(gather_rows, self._closest or empty))

    def pictures(self) -> list[Picture]:
        if self.scene is None or self.scene.training is None or self._closest is None or not len(self._closest[0]):
            return []
        distances, nearest, pixels = self._closest
        real = self.scene.training.batch(nearest.tolist())["image"]
        rows = [("sample", pixels.float() / 127.5 - 1), ("nearest training image", eight_bits(real) / 127.5 - 1)]
        captions = [f"{distance:.3g}" for distance in distances.tolist()]
        title = "samples closest to a training image, with their distance"
        return [Picture("nearest_training_images", rows, captions, title)]

    def _of(self, metric: str, value: float, error: float | None, n: int, way: str) -> Measurement:
        return Measurement(
            metric=metric,
            value=value,
            standard_error=error,
            n=n,
            features=self._built.name,
            features_hash=self._built.weights_hash,
            reference_hash=self._hash,
            reference=f"{self.scene.training.name}/val:{len(self._held_out)}",
            labels=self.scene.labels,
            feature_batch=self.batch,
            rounded=True,
            error=way,
        )


def closer_than(d: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> tuple[float, float]:
    """P(d < d') of independent d and d' of two sets of at least two, ties counted half, and its standard error."""
    of_d, of_other = _beyond(d, other), 1 - _beyond(other, d)
    variance = of_d.var() / len(d) + of_other.var() / len(other)
    return float(of_d.mean()), float(variance.sqrt())


def _beyond(values: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """The share of `others` that is greater than each value, ties counted half."""
    others = others.sort().values
    below = torch.searchsorted(others, values) + torch.searchsorted(others, values, right=True)
    return 1 - below.double() / (2 * len(others))
