"""Images that a person hands over to a trained model: files, a folder, PIL images, arrays or tensors, brought to its size.

| given | done |
| --- | --- |
| a file, or a folder with images anywhere below it | read by the rules of ldm.data.image, in the natural order of their paths |
| a PIL image | by the same rules |
| numpy, uint8 (h, w), (h, w, 1 | 3 | 4), or (b, h, w, 1 | 3 | 4) | by the same rules |
| a tensor, floating, (c, h, w) or (b, c, h, w), in [-1, 1] | taken as it is; of another size or range refused |
| a list of these | each |

By the rules the largest window with the model's proportions is cut out at the centre and resized in one antialiased step, and
colours are converted to the model's channels. All images are looked at before anything is done with them, so that a bad one is
told at once and by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from ldm.data.folder import ENDINGS
from ldm.data.image import BadImageError, Transform, to_float
from ldm.data.tree import Tree, natural
from ldm.types import Image

log = logging.getLogger(__name__)

_KEPT = 2**28  # bytes of pixels that are held; of more images each is decoded again when its turn comes


class Inputs:
    """Images as a model of `image_shape` takes them.

    Arguments:
        images: see the table above.
        image_shape: (c, h, w) of the model's images.
        word: what they are called in messages, as `images=` of a command line.

    Attributes:
        names: of the images, by their paths below the folder; of those without a file by their numbers.
        fingerprint: a hash of the names and of the pixels as they are used.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in it.
        ValueError: something is no image (BadImageError names it), or no tensor of the wanted shape and range.
    """

    def __init__(self, images: Any, image_shape: tuple[int, int, int], word: str = "images"):
        self._shape, self._word, self._transform = image_shape, word, Transform(image_shape)
        self.names, self._items = self._listed(images)
        self._kept: list[Image] | None = [] if len(self._items) * int(np.prod(image_shape)) * 4 <= _KEPT else None
        fitted, digest = 0, xxhash.xxh3_128()
        for i, name in enumerate(self.names):
            x, changed = self._read(i)
            fitted += changed
            digest.update(name.encode())
            digest.update(x.numpy().tobytes())
            if self._kept is not None:
                self._kept.append(x)
        self.fingerprint = digest.hexdigest()
        if fitted:
            log.info(
                "%d of %d images are of another size; of each the largest window of the wanted proportions was cut out at the "
                "centre and resized to %d x %d pixels",
                *(fitted, len(self.names), image_shape[2], image_shape[1]),
            )

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, rows: Sequence[int]) -> Image:
        """The images (b, c, h, w) in [-1, 1] of these numbers."""
        return torch.stack([self._read(row)[0] if self._kept is None else self._kept[row] for row in rows])

    def _listed(self, images: Any) -> tuple[list[str], list[Any]]:
        """The names of single images, and these."""
        if isinstance(images, str | Path):
            return self._files(Path(images).expanduser())
        many = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
        items = list(images) if many or isinstance(images, list | tuple) else [images]
        if not items:
            raise ValueError(f"{self._word}: there is none in it")
        return [str(each) if isinstance(each, str | Path) else str(i) for i, each in enumerate(items)], items

    def _files(self, path: Path) -> tuple[list[str], list[Path]]:
        if path.is_file():
            return [path.name], [path]
        if not path.is_dir():
            raise FileNotFoundError(f"{self._word}={path}: there is no such file or folder")
        files = [file for file in Tree(path).files if file.suffix.lower() in ENDINGS]
        if not files:
            raise FileNotFoundError(f"{self._word}={path}: there is no image below it (endings {' '.join(ENDINGS)})")
        files.sort(key=lambda file: natural(file.relative_to(path).as_posix()))
        return [file.relative_to(path).as_posix() for file in files], files

    def _read(self, row: int) -> tuple[Float[Tensor, "c h w"], bool]:
        """An image in [-1, 1], and whether it was of another size."""
        item, name = self._items[row], self.names[row]
        if isinstance(item, Tensor):
            return self._tensor(item, name), False
        pixels = self._transform(Path(item) if isinstance(item, str) else item, name=name)
        x = to_float(torch.from_numpy(np.array(pixels))[None])[0]
        return x, _size(item) not in (self._shape[1:], self._shape[:0:-1])

    def _tensor(self, x: Tensor, name: str) -> Float[Tensor, "c h w"]:
        if not x.is_floating_point() or tuple(x.shape) != self._shape:
            raise BadImageError(
                f"a tensor of {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}; wanted floating-point numbers "
                f"{self._shape} in [-1, 1]; PIL images, numpy's uint8 and files may be of any size",
                f"{self._word}: {name}",
            )
        x = x.detach().float().cpu()
        if not x.isfinite().all() or x.abs().max() > 1 + 1e-3:
            raise BadImageError(
                f"a tensor from {x.min():.4g} to {x.max():.4g}; wanted [-1, 1]", f"{self._word}: {name}"
            )
        return x.clamp(-1, 1)


def _size(item: Any) -> tuple[int, int]:
    """(height, width) of what was decoded without an error."""
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    if isinstance(item, PIL.Image.Image):
        return item.height, item.width
    with PIL.Image.open(item) as image:
        return image.height, image.width
