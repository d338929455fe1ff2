"""Whether samples help a classifier: python -m experiments.tasks.augmented DATA SHARE FOLDER [SEEDS]

DATA holds {train,test}.parquet with columns image and label, SHARE (1, 10, 100) is how many of a hundred training images there
are, the first ones, as of data.train.split='train[:SHARE%]', and FOLDER is the imagefolder that task=augment has written by a
run on the same share: one that has seen more would tell the classifier of images that it is not to know. The network of
metric=classifier is trained with as many updates in each case, on images each of which is shifted, blurred and made noisy at
random:

    real alone         each image of the share as often as any other
    with samples       half of a batch of either
    samples alone

and is read on all test images, which no training has seen. ± is the deviation between seeds (0,1,2) of the classifier.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, load_dataset
from torch import Tensor

from ldm.metric.classifier import OwnClassifier, is_right

_UPDATES, _SIZE = 600, 32

Set = tuple[Tensor, Tensor]  # pixels (n, 3, s, s) of 8 bits, and labels (n,)


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB").resize((_SIZE, _SIZE), PIL.Image.Resampling.BICUBIC))


def stacked(images: list[np.ndarray], labels: list[int]) -> Set:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def real(data: Path, split: str) -> tuple[Set, list[str]]:
    """Images and labels of a split or a part of it, and the names of the classes."""
    files = {name: str(data / f"{name}.parquet") for name in ("train", "test")}
    found: Dataset = load_dataset("parquet", data_files=files, split=split)
    return stacked([pixels(image) for image in found["image"]], found["label"]), found.features["label"].names


def generated(folder: Path, names: list[str]) -> Set:
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    images = [pixels(PIL.Image.open(folder / line["file_name"])) for line in lines]
    return stacked(images, [names.index(line["label"]) for line in lines])


def half_each(one: Set, other: Set) -> Set:
    """Both, the smaller repeated, so that half of what is drawn by chance is of either."""
    count = max(len(one[1]), len(other[1]))
    rows = [torch.arange(count) % len(labels) for _, labels in (one, other)]
    return torch.cat([one[0][rows[0]], other[0][rows[1]]]), torch.cat([one[1][rows[0]], other[1][rows[1]]])


def accuracy(training: Set, test: Set, classes: int, seed: int) -> float:
    """The share of test images that a classifier trained with this seed is right about, in hundredths."""
    recipe = OwnClassifier(updates=_UPDATES, seed=seed)
    network = recipe.untrained(classes, _SIZE)
    recipe.fit(network, *training)
    return 100 * is_right(network, *test).float().mean().item()


def main(data: Path, share: int, folder: Path, seeds: list[int]) -> None:
    own, names = real(data, f"train[:{share}%]")
    test, made = real(data, "test")[0], generated(folder, names)
    print(
        f"{len(own[1]):,} real images, {len(made[1]):,} samples, {len(test[1]):,} test images, {_UPDATES} updates",
        flush=True,
    )
    for name, training in (("real alone", own), ("with samples", half_each(own, made)), ("samples alone", made)):
        found = np.array([accuracy(training, test, len(names), seed) for seed in seeds])
        spread = f" ± {found.std(ddof=1):.2f}" if len(found) > 1 else ""
        print(f"{share} %: {name}: {found.mean():.2f}{spread} % right", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    asked = [int(seed) for seed in (sys.argv[4] if len(sys.argv) == 5 else "0,1,2").split(",")]
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), asked)
