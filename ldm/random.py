"""Randomness without state: every random number is a function of (seed, step, row, stream).

A generator carries a position that has to be saved, restored and shared between ranks; a function does not. Here the
uniform number of element e of row r is a mixing function (SplitMix64's finaliser, Steele et al. 2014,
doi 10.1145/2660193.2660195) of a key made from (seed, step, stream) and of the pair (r, e); normals come from
pairs of uniforms by Box and Muller (1958). So a resumed run draws what the uninterrupted one would have drawn, rank
k of n draws its rows of the one global batch, and a CPU and a GPU draw the same numbers up to rounding.
"""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ODD_ROW, _ODD_ELEMENT = -7046029254386353131, -4417276706812531889  # 2^64 / golden ratio; another odd constant
_MIX_1, _MIX_2 = -4658895280553007687, -7723592293110705685  # SplitMix64's multipliers, as signed integers


def seed_of(*keys: int | str) -> int:
    """A 63-bit seed from any names and numbers; different keys give independent seeds."""
    digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _shift(x: Tensor, bits: int) -> Tensor:
    """The logical right shift, which int64 lacks."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


class Random:
    """The random numbers of one batch.

    Arguments:
        seed, step: name the batch; sampling uses step 0.
        rows: (b,) the position of each example in the global batch, or the number of each image of a sampling job.
        total: size of the global batch, over which times are stratified.
    """

    def __init__(self, seed: int, step: int, rows: Int[Tensor, " b"], total: int | None = None):
        self.seed, self.step, self.rows = seed, step, rows
        self.total = len(rows) if total is None else total

    @classmethod
    def fresh(cls, rows: int, device: torch.device | str = "cpu") -> Random:
        """Numbers keyed by torch's own generator, for use without a run (a notebook's ten-line loop)."""
        seed = int(torch.randint(1 << 62, ()).item())
        return cls(seed, 0, torch.arange(rows, device=device))

    def __getitem__(self, rows: slice) -> Random:
        return Random(self.seed, self.step, self.rows[rows], self.total)

    def _uniform(self, stream: str, count: int, device: torch.device) -> Tensor:
        key = seed_of(self.seed, self.step, stream)
        rows = _mix(self.rows.to(device) * _ODD_ROW + key)
        elements = torch.arange(1, count + 1, device=device) * _ODD_ELEMENT
        bits = _mix(rows[:, None] + elements[None, :])
        return _shift(bits, 40).to(torch.float32) * 2.0**-24

    def uniform(self, stream: str, shape: tuple[int, ...] = ()) -> Float[Tensor, "b ..."]:
        """(b, *shape) in [0, 1), on the device of `rows`."""
        return self._uniform(stream, math.prod(shape), self.rows.device).view(len(self.rows), *shape)

    def normal(self, stream: str, shape: tuple[int, ...] = ()) -> Float[Tensor, "b ..."]:
        """(b, *shape), standard normal, float32, on the device of `rows`."""
        count = math.prod(shape)
        half = (count + 1) // 2
        u = self._uniform(stream, 2 * half, self.rows.device)
        radius = (-2 * torch.log1p(-u[:, :half])).sqrt()
        angle = 2 * math.pi * u[:, half:]
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return both[:, :count].reshape(len(self.rows), *shape)

    def stratified(self, stream: str) -> Float[Tensor, " b"]:
        """(b,) in [0, 1), one in each of `total` equal strata of the global batch."""
        offset = seed_of(self.seed, self.step, stream, "offset") % self.total
        strata = (self.rows + offset) % self.total
        return (strata + self.uniform(stream)) / self.total

    def generator(self, stream: str) -> torch.Generator:
        """A CPU generator for what needs one, seeded by (seed, step, stream)."""
        return torch.Generator().manual_seed(seed_of(self.seed, self.step, stream))
