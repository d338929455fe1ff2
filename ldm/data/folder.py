"""A folder of images. The sub-folder that an image is in is its class, and a text file beside an image has its captions:

    root/cat/1.png   root/cat/1.txt   root/dog/7.jpg ...

Where images are in the root itself there are no classes. A text file has one caption in each line. Captions of images
without a text file are read from `metadata.jsonl` or `metadata.csv` (ldm.data.metadata). Classes are numbered in the natural
order of their names, 2 before 10. Files that are not used are counted, and a warning says which (ldm.data.tree).
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ldm.data.metadata import TABLES, NoCaptions, captions_of, place
from ldm.data.source import Item, Source, digest, digest_files, shown, sizes
from ldm.data.tree import Tree, natural
from ldm.files import read_text

ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"),
)
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
_LINE_END = re.compile(r"\r\n|\r|\n")
_log = logging.getLogger(__name__)


class Folder(Source):
    """The images below a folder, in the order of their paths.

    Arguments:
        root: the folder.
        captions: `text` reads `<image>.txt` and metadata tables, `class` takes the name of the sub-folder, `none` none.

    Raises:
        FileNotFoundError: no such folder, or no image below it.
        ValueError: images both in classes and outside them; sub-folders that are splits; a text in another encoding.
    """

    def __init__(self, root: Path, captions: Literal["text", "class", "none"] = "text"):
        self.root, self._kind = Path(root).expanduser(), captions
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}; give one with images below it (data.root=DIR)")
        tree = Tree(self.root)
        self._files = [file for file in tree.files if file.suffix.lower() in ENDINGS]
        if not self._files:
            left_out = f"; there are {tree.summary()}" if tree.left_out else ""
            raise FileNotFoundError(f"{self.root}: no images below it (endings {' '.join(ENDINGS)}){left_out}")
        self._labels, self._classes = _labelled(self._files, self.root)
        read, self._captions = _captions(self._files, tree) if captions == "text" else (set(), None)
        for file in tree.files:
            if file.suffix.lower() not in ENDINGS and file not in read:
                tree.leave_out("other files", file)
        if tree.left_out:
            _log.warning("%s: %d images; left out are %s", self.root, len(self._files), tree.summary())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        return {"image": self._files[index]} | self.facts(index)

    def facts(self, index: int) -> Item:
        item: Item = {"name": self._files[index].relative_to(self.root).as_posix()}
        if self._classes:
            item["label"] = self._labels[index]
        if self._captions is not None:
            item["caption"] = self._captions[index]
        elif self._kind == "class" and self._classes:
            item["caption"] = self._classes[self._labels[index]]
        return item

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def columns(self) -> frozenset[str]:
        captioned = any(self._captions or ()) or (self._kind == "class" and bool(self._classes))
        return frozenset(["caption"] * captioned + ["label"] * bool(self._classes))

    def marks(self) -> list[int]:
        """The size of each file."""
        return sizes(self._files)

    @cached_property
    def fingerprint(self) -> str:
        words = json.dumps([self._kind, self._classes, self._labels, self._captions])
        return digest([digest_files(self._files, self.root, content=lambda file: False), words])


def _labelled(files: list[Path], root: Path) -> tuple[list[int], tuple[str, ...]]:
    """The class number of each image, and the names of the classes; none where images are in the root itself."""
    names = [_first_folder(file, root) for file in files]
    if not any(names):
        return [], ()
    if not all(names):
        raise ValueError(
            f"{root}: images both in sub-folders (classes), as {files[names.index(max(names))].relative_to(root)}, and "
            f"outside them, as {files[names.index('')].name}; sort them into one or the other"
        )
    classes = tuple(sorted(set(names), key=natural))
    if len(classes) > 1 and {name.casefold() for name in classes} <= _SPLITS:
        raise ValueError(
            f"{root}: its sub-folders {shown(classes)} are splits and not classes; take data=folders with "
            f"data.train.root={root / classes[0]} and so on"
        )
    number = {name: i for i, name in enumerate(classes)}
    return [number[name] for name in names], classes


def _first_folder(file: Path, root: Path) -> str:
    """The name of an image's class; "" for an image in the root itself. Accented letters are normalised to one character,
    because some systems store them as two."""
    parts = file.relative_to(root).parts
    return unicodedata.normalize("NFC", parts[0]) if len(parts) > 1 else ""


def _captions(images: list[Path], tree: Tree) -> tuple[set[Path], list[list[Any] | None]]:
    """The files that captions were read from, and the captions of each image, or None for an image without captions."""
    tables, listed = _tables(images, tree)
    texts = {file.with_suffix(""): file for file in tree.files if file.suffix.lower() == ".txt"}
    beside = [texts.get(image.with_suffix("")) for image in images]
    captions, failed = [], []
    for image, text in zip(images, beside, strict=True):
        try:
            own = listed.get(place(image)) if text is None else _lines(text)
        except ValueError as error:
            failed.append(error)
        else:
            captions.append(own or None)
    if failed:
        raise ValueError(f"{failed[0]}" + (f"; {len(failed) - 1} more are such" if len(failed) > 1 else ""))
    return {*tables, *filter(None, beside)}, captions


def _lines(text: Path) -> list[str]:
    return [line for line in _LINE_END.split(read_text(text)) if line.strip()]


def _tables(images: list[Path], tree: Tree) -> tuple[list[Path], dict[str, list[Any]]]:
    """The metadata tables that have captions, and the captions by the `place` of their image."""
    tables = [file for file in tree.files if file.name in TABLES]
    there = {place(image) for image in images} if tables else set()
    read, listed = [], {}
    for table in tables:
        try:
            own = captions_of(table)
        except NoCaptions as error:
            _log.warning("%s. It is not read; other columns can be named with data=hub data.root=%s", error, tree.root)
            continue
        absent = sorted(own.keys() - there)
        if own and len(absent) == len(own):
            raise ValueError(
                f"{table}: none of its {len(own)} images is there, as {absent[0]}; mend its file_name column"
            )
        for name in absent:
            tree.leave_out(f"rows of {table.name} without an image", Path(name))
        read.append(table)
        listed |= own
    return read, listed
