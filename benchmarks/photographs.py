"""JPEG files in COCO's layout, where COCO itself is not at hand: of its size, with captions, and of nothing.

    python benchmarks/photographs.py DIR [--count 400] [--size 640 480]

Smooth random fields with some grain take about as long to decode as photographs do, which is all that they are for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.files import write_json

WORDS = [
    "a",
    "the",
    "red",
    "old",
    "small",
    "two",
    "dog",
    "street",
    "man",
    "table",
    "on",
    "under",
    "near",
    "holding",
    "riding",
]


def picture(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    asked = parser.parse_args()
    random = np.random.default_rng(0)
    (asked.folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train2017", range(asked.count)), ("val2017", range(asked.count, asked.count * 5 // 4))):
        (asked.folder / split).mkdir(exist_ok=True)
        for number in numbers:
            picture(random, tuple(asked.size)).save(asked.folder / split / f"{number:012d}.jpg", quality=90)
        images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers]
        captions = [
            {"id": 5 * number + i, "image_id": number, "caption": " ".join(random.choice(WORDS, 10))}
            for number in numbers
            for i in range(5)
        ]
        write_json(asked.folder / "annotations" / f"captions_{split}.json", {"images": images, "annotations": captions})


if __name__ == "__main__":
    main()
