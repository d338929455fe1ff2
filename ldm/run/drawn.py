"""The latents that an evaluation has drawn so far, so that one that was stopped or killed goes on where it was.

    KEY/FIRST-LAST-COUNT.safetensors    z (b, c, h, w), or codes (b, h, w), of a batch of held-out rows of one rank;
                                        calls and seconds, its cost

KEY names the model's weights and what was asked for. Latents are small and exact: decoded again, they give the same images.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ldm.files import whole_file
from ldm.tensors import read_tensors, write_tensors
from ldm.types import Codes, Latent


class Drawn:
    """The folder in which an evaluation keeps what it has drawn until it has measured everything.

    Arguments:
        folder: of this purpose alone; what is in it under another key is removed.
        key: names all that the latents depend on.

    Attributes:
        seconds: that the latents found here took when they were drawn.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.place, self.seconds = folder, folder / key, 0.0
        for other in folder.iterdir() if folder.is_dir() else ():
            if other != self.place:
                shutil.rmtree(other, ignore_errors=True)  # another rank may be at it, too

    def of(self, rows: Sequence[int], draw: Callable[[], tuple[Latent | Codes, int]]) -> tuple[Latent | Codes, int]:
        """The latents of these rows and how many rows went through networks for them: what `draw` gives, or gave before."""
        file = self.place / f"{rows[0]}-{rows[-1]}-{len(rows)}.safetensors"
        if file.is_file():
            found = read_tensors(file)
            self.seconds += float(found["seconds"])
            return found["z"].clone(), int(found["calls"])
        start = time.monotonic()
        z, calls = draw()
        seconds = torch.tensor(time.monotonic() - start, dtype=torch.float64)
        with whole_file(file) as temporary:
            write_tensors(temporary, {"z": z, "calls": torch.tensor(calls), "seconds": seconds})
        return z, calls

    def clear(self) -> None:
        """Remove the folder, once everything is measured."""
        shutil.rmtree(self.folder, ignore_errors=True)
