"""Randomness without state: every random number is a function of (seed, step, row, stream).

A random generator has a state that has to be saved, restored and kept equal between ranks; a function has none. Here the
uniform number of element e of row r is a hash of (r, e) and of a key that is made from (seed, step, stream). The hash is the
finaliser of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators (2014), doi 10.1145/2660193.2660195).
Normal numbers are made of pairs of uniform ones (Box and Muller, A Note on the Generation of Random Normal Deviates (1958)).
So a resumed run draws the numbers that the uninterrupted run would have drawn, each rank draws the numbers of its own rows of
the global batch, and a CPU and a GPU draw the same numbers up to rounding.
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
        seed, step: the seed of the run and the number of the update; sampling uses step 0.
        rows: the position of each example in the global batch, or the number of each image that is sampled, (b,).
        total: size of the global batch, over which `stratified` stratifies; by default the number of rows.
    """

    def __init__(self, seed: int, step: int, rows: Int[Tensor, " b"], total: int | None = None):
        self.seed, self.step, self.rows = seed, step, rows
        self.total = len(rows) if total is None else total

    @classmethod
    def fresh(cls, rows: int, device: torch.device | str = "cpu") -> Random:
        """Random numbers for `rows` examples with a seed drawn from torch's generator, for use outside of a run, as in a
        notebook."""
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
        """Uniform numbers in [0, 1), (b, *shape), float32, on the device of `rows`. Another `stream` gives other numbers."""
        return self._uniform(stream, math.prod(shape), self.rows.device).view(len(self.rows), *shape)

    def normal(self, stream: str, shape: tuple[int, ...] = ()) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, (b, *shape), float32, on the device of `rows`."""
        count = math.prod(shape)
        half = (count + 1) // 2
        u = self._uniform(stream, 2 * half, self.rows.device)
        radius = (-2 * torch.log1p(-u[:, :half])).sqrt()
        angle = 2 * math.pi * u[:, half:]
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return both[:, :count].reshape(len(self.rows), *shape)

    def stratified(self, stream: str) -> Float[Tensor, " b"]:
        """Uniform numbers in [0, 1), (b,), of which the global batch has one in each of `total` intervals of equal length."""
        offset = seed_of(self.seed, self.step, stream, "offset") % self.total
        strata = (self.rows + offset) % self.total
        return (strata + self.uniform(stream)) / self.total

    def generator(self, stream: str) -> torch.Generator:
        """A torch generator on the CPU, seeded by (seed, step, stream), for functions that need one."""
        return torch.Generator().manual_seed(seed_of(self.seed, self.step, stream))
