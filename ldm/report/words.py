"""Numbers and lists as short texts, the same on every page, table and chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_LETTERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_LARGE = ((1e15, "P"), (1e12, "T"), *_LETTERS)
_NAMED = 4  # names that are listed before the rest is counted


def rounded(value: float, error: float | None) -> tuple[str, str]:
    """Value and error as text, to the second significant digit of the error; four digits without one."""
    if error is None or not math.isfinite(error) or not math.isfinite(value):
        return f"{value:.4g}", ""
    if error == 0:
        return f"{value:.4g}", "0"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 6:
        return f"{value:.3g}", f"{error:.2g}"
    return f"{value:.{digits}f}", f"{error:.{digits}f}"


def short(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits for an axis: 1500 is 1.5k, a millionth is 1e-6."""
    value = float(f"{value:.{digits - 1}e}")
    size, letter = next(((s, x) for s, x in _LETTERS if s <= abs(value) < 1e12), (1.0, ""))
    return f"{value / size:.{digits}g}{letter}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def labels(values: Sequence[float]) -> list[str]:
    """The labels of ticks, with as few digits (at least three) as give each to a fiftieth of the smallest distance."""
    gap = min((b - a for a, b in pairwise(values)), default=math.inf)
    digits = next(d for d in range(3, 18) if all(abs(float(f"{v:.{d - 1}e}") - v) <= gap / 50 for v in values))
    return [short(value, digits) for value in values]


def count(n: float) -> str:
    """A number of things, as `1.25 M` or `312 T`; up to 1000 as it is, with three digits of what is no whole number."""
    n = float(f"{n:.3g}")  # which may make 999.9 k a million
    size, letter = next(((s, x) for s, x in _LARGE if n >= s), (1.0, ""))
    return f"{n / size:.3g} {letter}".rstrip()


def duration(seconds: float) -> str:
    """A time in seconds as a text: `1 h 02 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.3g} s"


def listed(names: Sequence[str], most: int = _NAMED) -> str:
    """Names as words of a sentence: `a`, `a and b`, `a, b and c`; of more than `most` the rest is counted."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def number(count: int, thing: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
