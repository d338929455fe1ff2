"""The images of files that task=compress has written, by the files and the run alone.

    images/NAME.png    an image each, in the model's channels, below the sub-folders that its file lies in

All files are looked at before the first is decoded: one that is no such file, that was cut off or changed, or that was made with
other weights is refused by name. The condition, and the grid of latents, are in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import xxhash

from ldm.data.tree import Tree, natural
from ldm.files import whole_file
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Found, Task
from ldm.task.tools.coded_file import ENDING
from ldm.task.tools.coder import Coder, check
from ldm.types import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Decompress(Task):
    """Images again of files of task=compress.

    Arguments:
        files: one file (`*.ldmz`), or a folder with such anywhere below it.
    """

    takes = 0

    def __init__(self, files: Path):
        self.files = files
        self._paths = _paths(files)
        self._coder: Coder | None = None

    def check(self, model: LatentModel) -> None:
        check(model, "task=decompress")
        if self._coder is None or self._coder.model is not model:  # it copies the prior
            self._coder = Coder(model)
        for row, path in enumerate(self._paths):
            self._coder.opened(path.read_bytes(), self.name(row))

    def count(self, model: LatentModel, images: int) -> int:
        return len(self._paths)

    def name(self, row: int) -> str:
        path = self._paths[row]
        return path.relative_to(self.files).as_posix() if self.files.is_dir() else path.name

    def facts(self) -> dict[str, Any]:
        """How many files there are, and a hash of their names and bytes."""
        digest = xxhash.xxh3_128()
        for row, path in enumerate(self._paths):
            digest.update(self.name(row).encode())
            digest.update(path.read_bytes())
        return {"files": {"n": len(self._paths), "hash": digest.hexdigest()}}

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        rows, images = batch["index"].tolist(), []
        for row in rows:
            file = self._coder.opened(self._paths[row].read_bytes(), self.name(row))
            images.append(self._coder.decompressed(file, self.name(row)))
        x = torch.cat(images)
        sizes = torch.tensor([self._paths[row].stat().st_size for row in rows]).double()
        return Answer({"decoded": x}, {"bytes": sizes}, {"pixels": pixels(x)})

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        place = folder / "images"
        for name, x in zip(found.names, found.arrays["pixels"], strict=True):
            own = name.removesuffix(ENDING)
            with whole_file(place / (own if own.endswith(".png") else f"{own}.png")) as temporary:
                picture(x).save(temporary, "PNG")
        return [place]


def _paths(files: Path) -> list[Path]:
    """The files to decode, in the natural order of their paths."""
    if files.is_file():
        return [files]
    if not files.is_dir():
        raise FileNotFoundError(f"task.files={files}: there is no such file or folder")
    found = [file for file in Tree(files).files if file.suffix == ENDING]
    if not found:
        raise FileNotFoundError(f"task.files={files}: there is no file *{ENDING} of task=compress below it")
    return sorted(found, key=lambda file: natural(file.relative_to(files).as_posix()))


def pixels(x: Image) -> torch.Tensor:
    """Images (b, c, h, w) in [-1, 1] as 8 bits, in the channels that they have."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def picture(x: torch.Tensor) -> PIL.Image.Image:
    """8-bit pixels (c, h, w) as a PIL image: grey, RGB or RGBA."""
    array = x.permute(1, 2, 0).cpu().numpy()
    return PIL.Image.fromarray(array[..., 0] if len(x) == 1 else array, _MODES[len(x)])
