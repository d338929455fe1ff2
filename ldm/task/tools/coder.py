"""An image to bytes and back, by a first stage, its prior's laws and a range coder.

    image -> codes, 8-bit pixels, or latents on a grid -> bytes -> the same numbers, exactly -> image

Nothing is lost but by the first stage and by the grid, so that of pixels the image comes back to the bit. How many bytes it takes
is -log2 of what the prior holds it for: a better model is a shorter file (Shannon 1948).

An autoregressive prior is asked position by position, by the coder as by the decoder, for the decoder has to compute the very
probabilities that the coder had: another batch, a whole pass in the place of steps, or another number of threads rounds
otherwise, and from the first table that differs all is nonsense. So each image is coded by itself, in double precision, on the
CPU and in one thread, and tables are coarse beside that precision (ldm.task.tools.range_coder). Another machine or version of
torch may still differ; the file says what its numbers were and with what they were computed, and what does not agree is refused.

Sources:
    Shannon, A Mathematical Theory of Communication (1948)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ldm.model import LatentModel
from ldm.prior.head.categorical import levels_of, pixels_of
from ldm.prior.stepwise import Grid, Stepwise
from ldm.task.base import lacking
from ldm.task.tools import range_coder
from ldm.task.tools.coded_file import CodedFile, checksum, unpacked
from ldm.types import Codes, Context, Image, Latent

STEP = 0.5  # of latents, where none is said
_KNOWN = {"caption", "label"}  # conditions that a file can hold


@dataclass(frozen=True)
class Compressed:
    """An image as a file.

    Fields:
        file: its bytes.
        payload: how many of them are the coded numbers.
        bits: -log2 of the probability of these numbers under the prior.
        image: what the file is decoded to, (1, c, h, w) in [-1, 1].
    """

    file: bytes
    payload: int
    bits: float
    image: Image


def check(model: LatentModel, what: str, step: float | int | None = None) -> None:
    """ValueError where `what` cannot be done with this model, or `step` has no effect; ImportError where there is no coder."""
    if not isinstance(model.prior, Stepwise):
        raise ValueError(lacking(what, model, Stepwise, "the law of each number given those before it"))
    if why := model.prior.lawless():
        raise ValueError(f"{what} needs the law of each number given those before it: {why}")
    if strange := set(model.condition.needs) - _KNOWN:
        raise ValueError(f"{what} keeps a caption or a class in a file, and this model is conditioned on {strange}")
    if step is not None and not 0 < step < np.inf:
        raise ValueError(f"step={step:g}: wanted a distance above 0, as 0.5")
    kind = model.prior.latents.kind
    if step is not None and kind != "latents":
        raise ValueError(f"step={step:g} is of latents, which are put on a grid; this model's prior is of {kind}")
    range_coder.check_installed()


class Coder:
    """Images to files and back, one by one.

    Arguments:
        model: one that `check` has passed.
        step: of the grid that latents are put on, where they have deviation 1; None is 0.5.

    Attributes:
        model: the same.
    """

    def __init__(self, model: LatentModel, step: float | int | None = None):
        self.model, self._step = model, float(np.float32(step or STEP))
        self._prior = copy.deepcopy(model.prior).cpu().double().eval()
        on_cpu = model.device.type == "cpu"
        self._condition = model.condition if on_cpu else copy.deepcopy(model.condition).cpu().eval()
        self._kind, self._name = model.prior.latents.kind, bytes.fromhex(model.weights_hash[:8])
        channels, height, width = model.prior.latents.shape
        self._shape = (0 if self._kind == "codes" else channels, height, width)

    @torch.no_grad()
    def compressed(self, image: Image, said: Mapping[str, Any]) -> Compressed:
        """One image (1, c, h, w) in [-1, 1] as a file.

        Arguments:
            said: its condition, one `caption`, one `label`, or nothing.
        """
        with _one_thread():
            z = self._encoded(image).cpu()
            grid = self._grid(z) if self._kind == "latents" else None
            places = self._places(z, grid)
            coded = range_coder.encode(places.tolist(), self._prior.laws(self._context(said), grid))
            decoded = self._image(places, grid)
        numbers = checksum(places.numpy().astype("<i4").tobytes())
        file = CodedFile(self._name, numbers, _torch(), self._shape, dict(said), grid, coded.data)
        return Compressed(file.packed(), len(coded.data), coded.bits, decoded)

    def opened(self, file: bytes, name: str) -> CodedFile:
        """What a file holds; ValueError where it is damaged, or of another model."""
        found = unpacked(file, name)
        if found.model != self._name:
            raise ValueError(
                f"{name} was made with the weights {found.model.hex()}..., and these are {self._name.hex()}...: give the run "
                "that it was made with, and its weights= or ema="
            )
        if found.shape != self._shape or (found.grid is None) == (self._kind == "latents"):
            raise ValueError(f"{name} is of {found.shape}, and this model's {self._kind} are of {self._shape}")
        if found.grid is not None and not (
            1 <= found.grid.bound < range_coder.MOST // 2 and 0 < found.grid.step < np.inf
        ):
            raise ValueError(f"{name} has a grid that task=compress does not write: {found.grid}")
        return found

    @torch.no_grad()
    def decompressed(self, found: CodedFile, name: str) -> Image:
        """The image of an opened file, (1, c, h, w) in [-1, 1]; ValueError where other numbers are decoded than were coded."""
        with _one_thread():
            laws = self._prior.laws(self._context(found.said), found.grid)
            places = range_coder.decode(found.data, laws)
            if places is None or checksum(np.array(places, "<i4").tobytes()) != found.numbers:
                made, here = (".".join(map(str, each)) for each in (found.torch, _torch()))
                raise ValueError(
                    f"{name} is whole, and other numbers come out than went in: probabilities are computed otherwise here. It "
                    f"was made with torch {made}, and here is {here}; take that version, on the same kind of machine"
                )
            return self._image(torch.tensor(places), found.grid)

    def _encoded(self, image: Image) -> Latent | Codes:
        """What the prior models of an image, without a draw."""
        own = self.model.autoencoder
        return own.codes(image) if self._kind == "codes" else own.encode(image).mean

    def _grid(self, z: Latent) -> Grid:
        if not z.isfinite().all():
            raise ArithmeticError("a latent is no finite number: the first stage diverged")
        grid = Grid.around(z, self._step)
        if 2 * grid.bound >= range_coder.MOST:
            least = float(z.abs().max()) / (range_coder.MOST // 2 - 1)
            raise ValueError(
                f"step={self._step:g} cuts latents up to {z.abs().max():.4g} into more than {range_coder.MOST} values; "
                f"take {least:.2g} at least"
            )
        return grid

    def _places(self, z: Latent | Codes, grid: Grid | None) -> Tensor:
        """The places of the numbers of one example, (d,), in the order of the laws."""
        if self._kind == "codes":
            return z.flatten()
        return rearrange(levels_of(z) if grid is None else grid.places(z), "1 c h w -> (h w c)")

    def _image(self, places: Tensor, grid: Grid | None) -> Image:
        """The image of numbers by their places."""
        channels, height, width = self._shape
        if self._kind == "codes":
            z = places.view(1, height, width)
        else:
            z = rearrange(places, "(h w c) -> 1 c h w", c=channels, w=width)
            z = (pixels_of(z) if grid is None else grid.values(z)).float()
        return self.model.decode(z.to(self.model.device))

    def _context(self, said: Mapping[str, Any]) -> Context:
        """The context of one example, in double precision; without guidance nothing is asked of 'no condition'."""
        batch = {"index": torch.zeros(1, dtype=torch.long)}
        batch |= {"caption": [said.get("caption", "")]} if "caption" in self._condition.needs else {}
        batch |= {"label": torch.tensor([said["label"]])} if "label" in said else {}
        c = self._condition(batch)
        return Context(None if c.tokens is None else c.tokens.double(), c.mask)


def conditions_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each image of a batch is conditioned on: one `caption`, one `label`, or nothing."""
    rows: list[dict[str, Any]] = [{} for _ in batch["image"]]
    for i, row in enumerate(rows):
        row |= {"caption": batch["caption"][i]} if "caption" in batch else {}
        row |= {"label": int(batch["label"][i])} if "label" in batch else {}
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _torch() -> tuple[int, int, int]:
    """The version of torch."""
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split("+")[0].split(".")[:3]]
    return tuple([*numbers, 0, 0][:3])
