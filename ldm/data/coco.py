"""COCO captions in the layout of the original archives: photographs with five captions each (Lin et al. 2014,
Chen et al. 2015).

root/train2017/000000000009.jpg ...   root/annotations/captions_train2017.json
root/val2017/...                      root/annotations/captions_val2017.json

Sources:
    Lin et al., Microsoft COCO: Common Objects in Context (2014), arXiv 1405.0312
    Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server (2015), arXiv 1504.00325
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm.data.source import Item, Source, digest, digest_files, sizes
from ldm.types import Probability

_log = logging.getLogger(__name__)


class Coco(Source):
    """Photographs and their captions, in the order of the annotation file.

    Arguments:
        root: the folder with `train2017`, `val2017` and `annotations`.
        splits: which of them to read: "train2017", "val2017" or any other pair of a folder and captions_<split>.json.
        max_absent: the share of annotated photographs that may be missing on the disk.

    A photograph without a caption is used without a condition, and a caption without its photograph is left out. Both are
    counted, in `uncaptioned` and `absent`, and a warning gives the numbers.

    Raises:
        FileNotFoundError: the layout is not there, or too many of the photographs are not.
    """

    def __init__(
        self,
        root: Path,
        splits: tuple[str, ...] = ("train2017",),
        max_absent: Probability = 0.01,
    ):
        self.root, self.splits = Path(root).expanduser(), tuple(splits)
        self.absent = self.uncaptioned = 0
        self._rows: list[tuple[str, list[Any]]] = [row for split in self.splits for row in self._read(split)]
        self._check(len(self._rows), max_absent)

    def _check(self, there: int, max_absent: float) -> None:
        whole = f"{self.absent + there} annotated photographs"
        what = f"{self.root} ({', '.join(self.splits)}): {self.absent} of {whole} are not there"
        if not there:
            raise FileNotFoundError(f"{what}; unpack the archives of photographs beside the annotations")
        if self.absent > max_absent * (self.absent + there):
            raise FileNotFoundError(f"{what}, more than max_absent={max_absent:g} allows; complete them or allow more")
        if self.absent or self.uncaptioned:
            _log.warning("%s and are left out; %d have no caption", what, self.uncaptioned)

    def _read(self, split: str) -> list[tuple[str, list[Any]]]:
        """(path below the root, captions) of the photographs that are there."""
        folder, file = self.root / split, self.root / "annotations" / f"captions_{split}.json"
        if not folder.is_dir() or not file.is_file():
            missing = folder if not folder.is_dir() else file
            raise FileNotFoundError(
                f"{missing} is not there. COCO is expected as root/{split}/*.jpg and "
                f"root/annotations/captions_{split}.json (the original archives, unpacked in one folder); "
                f"give that folder with data.root=DIR"
            )
        try:
            annotations = json.loads(file.read_bytes())
            images = {image["id"]: image["file_name"] for image in annotations["images"]}
            captions = defaultdict(list)
            for entry in annotations["annotations"]:
                captions[entry["image_id"]].append(entry.get("caption"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a COCO caption file ({type(error).__name__}: {error})") from error
        there = {entry.name for entry in folder.iterdir()}
        self.absent += sum(name not in there for name in images.values()) + len(captions.keys() - images.keys())
        rows = [(f"{split}/{name}", captions[key]) for key, name in sorted(images.items()) if name in there]
        self.uncaptioned += sum(not own for _, own in rows)
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        name, _ = self._rows[index]
        return {"image": self.root / name} | self.facts(index)

    def facts(self, index: int) -> Item:
        name, captions = self._rows[index]
        return {"caption": captions, "name": name}

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(["caption"] if any(captions for _, captions in self._rows) else [])

    def marks(self) -> list[int]:
        """The size of each file."""
        return sizes(self.root / name for name, _ in self._rows)

    def captions(self) -> Iterator[Any]:
        return (captions for _, captions in self._rows)

    @cached_property
    def fingerprint(self) -> str:
        files = (self.root / name for name, _ in self._rows)
        captions = json.dumps([captions for _, captions in self._rows])
        return digest([digest_files(files, self.root, content=lambda file: False), captions])
