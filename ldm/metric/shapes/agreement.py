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
from pathlib import Path

import torch
from torch import Tensor

from ldm.data.shapes import ATTRIBUTES, combinations, parse
from ldm.eight_bits import eight_bits
from ldm.files import whole_file
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.shapes.attributes import ENOUGH, AttributeChecker, accuracy, agreement, readable, train_checker
from ldm.tensors import hash_of, read_tensors, write_tensors

log = logging.getLogger(__name__)

COLUMNS = (*ATTRIBUTES, "all")
_CHECKED = 2048  # real images on which the accuracy of the classifier is measured


class Agreement(Metric):
    """The shares of generated images of shapes that agree with their captions.

    Arguments:
        cache: a folder in which a trained classifier is kept for other runs; None trains one each time.
        seed: of the training of the classifier.
    """

    names = ("checker_accuracy", "shows_*")

    needs = ("caption",)

    def __init__(self, cache: Path | None = None, seed: int = 0):
        self.cache, self.seed = cache, seed
        self._checker: AttributeChecker | None = None
        self._size = (0, 0)  # of the samples that were added
        self._right = [torch.zeros(0, len(COLUMNS) + 1)]

    def check(self, captions: Iterable[str]) -> None:
        check_captions("attributes", captions)

    def add(self, examples: Examples) -> None:
        if examples.generated is None:
            return
        self._size = tuple(examples.generated.shape[-2:])
        if not readable(*self._size):
            return
        if self._checker is None:
            self._checker = self._ready(examples.generated.device, self._size[0])
        found = agreement(self._checker, eight_bits(examples.generated) / 127.5 - 1, examples.captions)
        right = [found["joint" if name == "all" else name]["right"].cpu().float() for name in COLUMNS]
        unseen = torch.tensor([_unseen(caption) for caption in examples.captions]).float()
        self._right.append(torch.stack([*right, unseen], dim=1))

    def measure(self) -> list[Measurement]:
        """The shares; none where there are no generated images."""
        rows = gather_rows(torch.cat(self._right))
        size = tuple(gather_rows(torch.tensor([self._size])).amax(0).tolist())
        if size == (0, 0):
            return []
        if not readable(*size):
            wanted = "square images whose side is a multiple of 4, from 16 on"
            leave_out("agreement with captions", wanted, f"{size[0]} x {size[1]}")
            return []
        if self._checker is None:  # this rank was given no samples
            self._checker = self._ready(torch.device("cpu"), size[0])
        name, key = "attribute_checker", hash_of(self._checker.state_dict())[:16]
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

    def _ready(self, device: torch.device, size: int) -> AttributeChecker:
        return checker(self.cache, self.seed, device, size)


def check_captions(metric: str, captions: Iterable[str]) -> None:
    """ValueError at the first caption that is none of shapes: the images of such data are not what the classifier reads."""
    for caption in captions:
        try:
            parse(caption)
        except ValueError as error:
            raise ValueError(f"metric={metric} is for the captions of data=shapes: {error}") from None


def checker(cache: Path | None, seed: int, device: torch.device, size: int) -> AttributeChecker:
    """The classifier for images of side `size`, from the folder `cache` or newly trained."""
    file = None if cache is None else Path(cache) / f"attribute-checker-{size}-{seed}.safetensors"
    if file is not None and file.exists():
        found = AttributeChecker(size)
        found.load_state_dict(read_tensors(file))
        return found.to(device).eval()
    log.info("training the attribute checker on rendered images")
    found, _ = train_checker(seed, device, size)
    if file is not None:
        with whole_file(file) as temporary:  # each rank trains its own, to the same weights
            write_tensors(temporary, found.state_dict())
    return found


def _share(metric: str, share: float, n: int, features: str, key: str) -> Measurement:
    error = math.sqrt(max(share * (1 - share), 0.0) / n) if n > 1 else None
    return Measurement(
        metric=metric, value=share, standard_error=error, n=n, features=features, features_hash=key, rounded=True
    )


def _unseen(caption: str) -> bool:
    held_out: Tensor = torch.from_numpy(combinations(True))
    wanted = torch.tensor([parse(caption)[name] for name in ATTRIBUTES])
    return bool((held_out == wanted).all(1).any())
