"""Data sets for the scores of what is strange, made of one with labels:

    python -m experiments.tasks.other_data pictures DATA OUT [SPLIT]  OUT/*.png: 1,000 test (or train) images, by chance
    python -m experiments.tasks.other_data without DATA OUT CLASS     the same data without a class, and test images with it
    python -m experiments.tasks.other_data spoilt DATA OUT SHARE      the same data with this share of pixels replaced

DATA holds {train,test}.parquet with columns image and label. `without` and `spoilt` write such a folder, to be named by
data.root=; `without` also writes OUT/known and OUT/strange, folders of 1,000 test images of the other classes and of the class.
`spoilt` replaces each pixel with probability SHARE by one of its 256 values, all equally probable, which leaves of images what
all have in common (Ren et al., Likelihood Ratios for Out-of-Distribution Detection (2019), arXiv 1906.02845, section 3.1,
mutations): the data of `task.background=`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, load_dataset

_N = 1000


def read(data: Path, split: str) -> Dataset:
    return load_dataset("parquet", data_files=str(data / f"{split}.parquet"), split="train")


def write_pictures(data: Dataset, folder: Path, n: int) -> None:
    """`n` images of the data, taken by chance, or all where there are fewer."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.sort(np.random.default_rng(0).permutation(len(data))[:n])
    for row in chosen.tolist():
        data[row]["image"].save(folder / f"{row:05d}.png")


def spoilt(image: PIL.Image.Image, share: float, generator: np.random.Generator) -> PIL.Image.Image:
    pixels = np.array(image)
    chance = generator.integers(0, 256, pixels.shape, dtype=np.uint8)
    return PIL.Image.fromarray(np.where(generator.random(pixels.shape) < share, chance, pixels))


def without(data: Path, out: Path, name: str) -> None:
    for split in ("train", "test"):
        every = read(data, split)
        names = every.features["label"].names
        if name not in names:
            raise SystemExit(f"{name}: no class of {data}, which has {', '.join(names)}")
        labels = np.array(every["label"])
        (out / "known").mkdir(parents=True, exist_ok=True)
        kept = every.select(np.flatnonzero(labels != names.index(name)))
        kept.to_parquet(out / f"{split}.parquet")
        if split == "test":
            write_pictures(kept, out / "known", _N)
            write_pictures(every.select(np.flatnonzero(labels == names.index(name))), out / "strange", _N)


def spoil(data: Path, out: Path, share: float) -> None:
    if not 0 < share < 1:
        raise SystemExit(f"a share of pixels is between 0 and 1, and not {share}")
    out.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "test")):
        every, generator = read(data, split), np.random.default_rng(seed)
        changed = [spoilt(image, share, generator) for image in every["image"]]
        Dataset.from_dict({"image": changed, "label": every["label"]}, every.features).to_parquet(
            out / f"{split}.parquet"
        )


def main(words: list[str]) -> None:
    match words:
        case ["pictures", data, out]:
            write_pictures(read(Path(data), "test"), Path(out), _N)
        case ["pictures", data, out, "train" | "test" as split]:
            write_pictures(read(Path(data), split), Path(out), _N)
        case ["without", data, out, name]:
            without(Path(data), Path(out), name)
        case ["spoilt", data, out, share]:
            spoil(Path(data), Path(out), float(share))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
