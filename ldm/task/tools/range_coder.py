"""Range coding of numbers whose laws are known one after the other (Martin 1979), by the package `constriction` (Bamler 2022).

Probabilities p (n,) become whole numbers, floor(2^20 p) + 1 in proportion, so that whatever stands there has a code and both
sides have the same table: a difference of rounding far below 2^-20 seldom changes one. It costs log2(1 + n / 2^20) bits a number
at most.
The coder's last word is cut to the bytes that are needed for the right answer; what is missing is read as zeros.

Sources:
    Martin, Range Encoding: An Algorithm for Removing Redundancy from a Digitised Message (1979)
    Bamler, Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): A Statistician's Perspective (2022),
        arXiv 2201.01741
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ldm.prior.stepwise import Laws

_TOTAL = 2**20
MOST = 4096  # things that may stand at a place, so that tables cost next to nothing


@dataclass(frozen=True)
class Coded:
    """Numbers that were coded.

    Fields:
        data: what the numbers were coded to.
        bits: -log2 of their probability under the laws.
    """

    data: bytes
    bits: float


def check_installed() -> None:
    """ImportError where there is no coder."""
    try:
        import constriction  # noqa: F401
    except ImportError as error:
        raise ImportError("files of compressed images need constriction: pip install 'ldm[compress]'") from error


def encode(places: Sequence[int], laws: Laws) -> Coded:
    """Code what stands at each place in turn."""
    import constriction

    encoder, tables, bits = constriction.stream.queue.RangeEncoder(), [], 0.0
    law = next(laws, None)
    for place in places:
        table = _table(law)
        encoder.encode(int(place), _model(table))
        bits -= math.log2(max(float(law[place]), 1e-300))
        tables.append(table)
        law = _sent(laws, place)
    return Coded(_shortest(encoder.get_compressed(), places, tables), bits)


def decode(data: bytes, laws: Laws) -> list[int] | None:
    """What was coded. Where laws or data are not those of the coder: something else, or None where that is noticed."""
    import constriction

    decoder, places = constriction.stream.queue.RangeDecoder(_words(data)), []
    law = next(laws, None)
    while law is not None:
        try:
            places.append(int(decoder.decode(_model(_table(law)))))
        except AssertionError:  # constriction's word for data that no coder has written
            return None
        law = _sent(laws, places[-1])
    return places


def _sent(laws: Laws, place: int) -> Tensor | None:
    """The next law, once what stands at this place is known; None behind the last."""
    try:
        return laws.send(int(place))
    except StopIteration:
        return None


def _table(law: Tensor) -> np.ndarray:
    p = law.double().numpy()
    if not np.isfinite(p).all():
        raise ArithmeticError("a probability is no finite number: the prior's weights are broken, or its run diverged")
    return np.floor(_TOTAL * p) + 1


def _model(table: np.ndarray) -> Any:
    import constriction

    return constriction.stream.model.Categorical(table, perfect=False)


def _words(data: bytes) -> np.ndarray:
    """32-bit words of bytes, the last one filled up with zeros."""
    return np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)


def _shortest(words: np.ndarray, places: Sequence[int], tables: Sequence[np.ndarray]) -> bytes:
    """The fewest leading bytes, the last perhaps greater by one, that say the same."""
    whole = words.astype(">u4").tobytes()
    for count in range(max(0, len(whole) - 8), len(whole)):
        start = int.from_bytes(whole[:count], "big")
        for value in (start, start + 1):
            if value < 256**count and _says(value.to_bytes(count, "big"), places, tables):
                return value.to_bytes(count, "big")
    return whole


def _says(data: bytes, places: Sequence[int], tables: Sequence[np.ndarray]) -> bool:
    """Whether bytes are decoded to these places."""
    import constriction

    decoder = constriction.stream.queue.RangeDecoder(_words(data))
    try:
        return all(decoder.decode(_model(table)) == place for place, table in zip(places, tables, strict=True))
    except AssertionError:  # as above
        return False
