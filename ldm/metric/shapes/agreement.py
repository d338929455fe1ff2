"""Agreement of generated shapes (ldm.data.shapes) with their captions, as a metric of a run.

A classifier reads the attributes of each sample. `shows_<attribute>` and `shows_all` are the shares of samples in which it
reads what the caption says. `shows_all_unseen` is the share among samples whose combination of attributes does not occur in
training, and `shows_all_seen` that among the others. Samples are read as they are shown, in 8 bits and RGB. The classifier's
own accuracy on real images is reported as `checker_accuracy`; where it is below 99 %, a warning says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ldm.data.shapes import ATTRIBUTES, combinations, parse
from ldm.eight_bits import eight_bits
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.scene import Scene
from ldm.metric.shapes.attributes import ENOUGH, NAME, AttributeChecker, accuracy, agreement, kept_checker, readable

log = logging.getLogger(__name__)

COLUMNS = (*ATTRIBUTES, "all")
_CHECKED = 2048  # real images on which the accuracy of the classifier is measured


class Agreement(Metric):
    """The shares of generated images of shapes that agree with their captions.

    Arguments:
        seed: of the training of the classifier, which is kept for other runs.
    """

    names = ("checker_accuracy", "shows_*")

    needs = ("caption",)

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._checker: AttributeChecker | None = None
        self._right = [torch.zeros(0, len(COLUMNS) + 1)]

    def check(self, captions: Iterable[str]) -> None:
        check_captions("attributes", captions)

    def begin(self, scene: Scene) -> None:
        height, width = scene.image_shape[1:]
        if not scene.samples:
            return
        if readable(height, width):
            self._checker = kept_checker(scene, self.seed)
        else:
            wanted = "square images whose side is a multiple of 4, from 16 on"
            leave_out("agreement with captions", wanted, f"{height} x {width}")

    def add(self, examples: Examples) -> None:
        if examples.generated is None or self._checker is None:
            return
        found = agreement(self._checker, eight_bits(examples.generated) / 127.5 - 1, examples.captions)
        right = [found["joint" if name == "all" else name]["right"].cpu().float() for name in COLUMNS]
        unseen = torch.tensor([_unseen(caption) for caption in examples.captions]).float()
        self._right.append(torch.stack([*right, unseen], dim=1))

    def measure(self) -> list[Measurement]:
        """The shares; none where there are no generated images that can be read."""
        rows = gather_rows(torch.cat(self._right))
        if self._checker is None or not len(rows):
            return []
        name, key = NAME, self._checker.key
        share = accuracy(self._checker, self.seed + 1, _CHECKED)["joint"]
        if share < ENOUGH:
            log.warning(
                "the attribute checker reads only %.1f%% of real images right: do not trust its numbers", 100 * share
            )
        found = [_share("checker_accuracy", share, _CHECKED, name, key)]
        unseen = rows[:, -1] > 0
        for i, column in enumerate(COLUMNS):
            found.append(_share(f"shows_{column}", rows[:, i].mean().item(), len(rows), name, key))
        for word, group in (("seen", ~unseen), ("unseen", unseen)):
            if group.any():
                found.append(_share(f"shows_all_{word}", rows[group, -2].mean().item(), int(group.sum()), name, key))
        return found


def check_captions(metric: str, captions: Iterable[str]) -> None:
    """ValueError at the first caption that is none of shapes: the images of such data are not what the classifier reads."""
    for caption in captions:
        try:
            parse(caption)
        except ValueError as error:
            raise ValueError(f"metric={metric} is for the captions of data=shapes: {error}") from None


def _share(metric: str, share: float, n: int, features: str, key: str) -> Measurement:
    error = math.sqrt(max(share * (1 - share), 0.0) / n) if n > 1 else None
    return Measurement(
        metric=metric, value=share, standard_error=error, n=n, features=features, features_hash=key, rounded=True
    )


def _unseen(caption: str) -> bool:
    held_out: Tensor = torch.from_numpy(combinations(True))
    wanted = torch.tensor([parse(caption)[name] for name in ATTRIBUTES])
    return bool((held_out == wanted).all(1).any())
