"""Images as small files, one each: what the first stage keeps of them, entropy-coded under the prior (Theis et al. 2017).

    files/NAME.ldmz    of each image; task=decompress makes images of them again, by the files and the run alone
    codecs.json        what JPEG, WebP and PNG make of the same images, at several qualities
    codecs.png         bytes against PSNR, and images beside each other at about the same bytes

Codes, and pixels without a first stage, come back exactly; latents are rounded to a grid of `step`, and what is lost by that is
seen in the picture. A file is a function of image, condition, step and model, whatever the batch (ldm.task.tools.coder).
The condition is in the file: a right one makes what follows more probable, and so the file shorter.

    bytes             of the file
    header            of these, what is not coded numbers (ldm.task.tools.coded_file)
    bits_per_pixel    8 bytes / (h w)
    bits              -log2 P of what was coded, under the prior
    overhead          8 (bytes - header) / bits - 1: what coder and whole bytes cost beyond that
    psnr              of the decoded image of 8 bits in dB; of an image that comes back exactly NaN, which is left out
    lossless          1 where it does

What makes it fail: images unlike those of training, which the prior finds improbable (long files) or the first stage does not
keep (wrong pictures of clothes that were digits). Decoding takes a call of the network for each position of an autoregressive
prior. A generative first stage makes up texture that was not there, at rates where JPEG shows blocks: PSNR does not reward it.

Sources:
    Theis et al., Lossy Image Compression with Compressive Autoencoders (2017), arXiv 1703.00395
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat

from ldm.files import whole_file, write_json
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Found, Task
from ldm.task.tools import codecs
from ldm.task.tools.coded_file import ENDING
from ldm.task.tools.coder import Coder, check, conditions_of


class Compress(Task):
    """Images as files that are as long as the prior finds them improbable; task=decompress reads them.

    Arguments:
        step: of the grid that latents are put on, where they have deviation 1; None is 0.5. Larger is shorter and worse. Codes
            and pixels have none.
    """

    def __init__(self, step: PositiveFloat | None = None):
        self.step = step
        self._coder: Coder | None = None

    def check(self, model: LatentModel) -> None:
        check(model, "task=compress", self.step)

    def begin(self, model: LatentModel) -> None:
        self._coder = Coder(model, self.step)

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        x = batch["image"]
        made = [self._coder.compressed(x[i : i + 1], said) for i, said in enumerate(conditions_of(batch))]
        decoded = torch.cat([each.image for each in made])
        sizes, payloads, bits = (
            torch.tensor(values).double()
            for values in zip(*((len(each.file), each.payload, each.bits) for each in made), strict=True)
        )
        psnr, same = codecs.psnr(x, decoded)
        numbers = {"bytes": sizes, "header": sizes - payloads, "bits_per_pixel": 8 * sizes / x[0, 0].numel()}
        numbers |= {"bits": bits, "overhead": 8 * payloads / bits - 1, "psnr": psnr, "lossless": same.double()}
        longest = len(made[0].file) - made[0].payload + 8 + 3 * model.prior.latents.numbers
        files = torch.stack([_padded(each.file, longest) for each in made])
        return Answer({"given": x, "decoded": decoded}, numbers, {"file": files})

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        place = folder / "files"
        for name, file, size in zip(found.names, found.arrays["file"], found.numbers["bytes"], strict=True):
            with whole_file(place / f"{name}{ENDING}") as temporary:
                temporary.write_bytes(bytes(file[: int(size)].tolist()))
        beside = codecs.beside(found, grey=model.autoencoder.image_shape[0] == 1)
        write_json(folder / "codecs.json", [each.plain() for each in beside])
        with whole_file(folder / "codecs.png") as temporary:
            codecs.figure(found, beside).savefig(temporary, format="png")
        return [place, folder / "codecs.json", folder / "codecs.png"]


def _padded(file: bytes, length: int) -> torch.Tensor:
    """Bytes followed by zeros."""
    return torch.tensor(list(file) + [0] * (length - len(file)), dtype=torch.uint8)
