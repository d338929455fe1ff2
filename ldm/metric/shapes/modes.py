"""How many of the known modes of shapes (ldm.data.shapes) samples show, with or without captions.

The training split of shapes is a mixture with as many modes as it has combinations of attributes, K, all equally probable. A
classifier reads the attributes of each sample, and of n samples

    modes           how many combinations of the training split they show
    modes_share     this, divided by how many n images of that law show in expectation, K (1 - (1 - 1 / K)^n): 1 where no mode
                    is missing or rarer than it ought to be, and 1 / that number where all samples are of one mode
    modes_strange   the share of samples of combinations that the training split does not have: joined from several modes, or
                    read wrongly (checker_accuracy of `Agreement` says how often that is)

The error of the count is the jackknife's (Efron and Stein 1981): without a sample the count is one less where it is the only one
of its mode, so with s such samples the variance is s (1 - s / n) (n - 1) / n.

A sample that shows nothing is read as something, too: look at the pictures, and at distances in other features.

Source:
    Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning (2017), arXiv 1705.07761,
    section 4 (modes that a classifier finds among samples)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from ldm.data.shapes import ATTRIBUTES, combinations
from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.scene import Scene
from ldm.metric.shapes.agreement import check_captions
from ldm.metric.shapes.attributes import NAME, AttributeChecker, kept_checker, readable

_SIZES = [len(words) for words in ATTRIBUTES.values()]


class Modes(Metric):
    """The numbers above.

    Arguments:
        seed: of the training of the classifier, which is kept for other runs.
    """

    needs = ("caption",)  # by which images are known to be of shapes; samples need not have been drawn for captions

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._checker: AttributeChecker | None = None
        self._read = [torch.zeros(0, len(ATTRIBUTES), dtype=torch.long)]

    def check(self, captions: Iterable[str]) -> None:
        check_captions("modes", captions)

    def begin(self, scene: Scene) -> None:
        channels, height, width = scene.image_shape
        if not scene.samples:
            return
        if readable(height, width) and channels >= 3:
            self._checker = kept_checker(scene, self.seed)
        else:
            wanted = "square images in colour, whose side is a multiple of 4, from 16 on"
            leave_out("modes", wanted, f"{scene.image_shape}")

    def add(self, examples: Examples) -> None:
        if examples.generated is None or self._checker is None:
            return
        x = examples.generated
        found = self._checker.read(eight_bits(x) / 127.5 - 1)
        self._read.append(torch.stack([found[name].cpu() for name in ATTRIBUTES], dim=1))

    def measure(self) -> list[Measurement]:
        read = gather_rows(torch.cat(self._read))
        if not len(read):
            return []
        known, own = _numbered(torch.from_numpy(combinations(False))), _numbered(read)
        of_data = torch.isin(own, known)
        modes, times = own[of_data].unique(return_counts=True)
        n, once = len(own), int((times == 1).sum())
        expected = len(known) * (1 - (1 - 1 / len(known)) ** n)
        error = math.sqrt(once * (1 - once / n) * (n - 1) / n) if n > 1 else None
        strange = 1 - of_data.double().mean().item()
        return [
            self._number("modes", float(len(modes)), error, n),
            self._number("modes_share", len(modes) / expected, None if error is None else error / expected, n),
            self._number("modes_strange", strange, math.sqrt(strange * (1 - strange) / n) if n > 1 else None, n),
        ]

    def _number(self, metric: str, value: float, error: float | None, n: int) -> Measurement:
        key = None if self._checker is None else self._checker.key
        return Measurement(
            metric=metric,
            value=value,
            standard_error=error,
            n=n,
            features=NAME,
            features_hash=key,
            rounded=True,
        )


def _numbered(attributes: Int[Tensor, "n 5"]) -> Int[Tensor, " n"]:
    """A number for each combination."""
    number = torch.zeros(len(attributes), dtype=torch.long)
    for column, size in zip(attributes.T, _SIZES, strict=True):
        number = number * size + column
    return number
