"""A folder of images: the sub-folder an image is in is its class, a text file beside it its captions.

    root/cat/1.png   root/cat/1.txt   root/dog/7.jpg ...

Where images lie in the root itself there are no classes. A text file holds one caption a line.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt

from ldm.data.source import Item, Source, digest_files
from ldm.random import seed_of

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")


class Folder(Source):
    """The images below a folder, in the order of their paths.

    Arguments:
        root: the folder.
        captions: `text` reads `<image>.txt`, `class` takes the sub-folder's name, `none` gives none.
        every: hold out every so many-th image (in the order of a hash of its path); 0 holds out none.
        held_out: give the images held out, and not the others.
    Raises:
        FileNotFoundError: no such folder, or no image below it.
    """

    def __init__(
        self,
        root: Path,
        captions: Literal["text", "class", "none"] = "text",
        every: NonNegativeInt = 0,
        held_out: bool = False,
    ):
        self.root, self._captions = Path(root), captions
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}; give one with images below it (data.root=DIR)")
        files = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
        if not files:
            raise FileNotFoundError(f"{self.root}: no images below it (endings {' '.join(_ENDINGS)})")
        names = {file: file.relative_to(self.root).parts[0] for file in files if file.parent != self.root}
        if names and len(names) < len(files):
            lost = next(file for file in files if file not in names)
            raise ValueError(
                f"{self.root}: images both in sub-folders (classes) and outside them, as {lost.name}; sort them"
            )
        self._classes = tuple(sorted(set(names.values())))
        number = {name: i for i, name in enumerate(self._classes)}
        labels = [number[names[file]] if names else 0 for file in files]
        rows = list(zip(files, labels, strict=True))
        if every:
            rows.sort(key=lambda row: seed_of("folder", row[0].relative_to(self.root).as_posix()))
            rows = [row for i, row in enumerate(rows) if (i % every == 0) == held_out]
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        return {"image": self._rows[index][0]} | self.facts(index)

    def facts(self, index: int) -> Item:
        file, label = self._rows[index]
        item: Item = {"label": label, "name": str(file.relative_to(self.root))}
        if self._captions == "class" and self._classes:
            item["caption"] = self._classes[label]
        elif self._captions == "text":
            text = file.with_suffix(".txt")
            item["caption"] = text.read_bytes().splitlines() if text.exists() else None
        return item

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @cached_property
    def fingerprint(self) -> str:
        files = [file for file, _ in self._rows]
        if self._captions == "text":
            files += [text for file in files if (text := file.with_suffix(".txt")).exists()]
        return digest_files(files, self.root, content=lambda file: file.suffix == ".txt") + self._captions
