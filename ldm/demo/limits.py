"""What may be asked of a page at once, so that several people can use it: numbers, and the time of one drawing.

A number that a visitor sends is checked here again, whatever the page's sliders allow: a request need not come from the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import PositiveFloat, PositiveInt

SEEDS = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """The most that a visitor may ask for.

    Fields:
        images: drawn at once, or frames of a walk.
        steps: of a sampler.
        seconds: of one drawing, after which it ends between two steps.
        waiting: visitors in the queue; a further one is asked to come back.
        caption: characters of a caption.
    """

    images: PositiveInt = 16
    steps: PositiveInt = 200
    seconds: PositiveFloat = 60.0
    waiting: PositiveInt = 16
    caption: PositiveInt = 1000


def whole(value: Any, low: int, high: int, what: str) -> int:
    """A whole number within its limits; ValueError says what came in its place."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if not number or value != int(min(max(value, low), high)):
        raise ValueError(f"{what} is a whole number from {low} to {high}, and {_said(value)}.")
    return int(value)


def real(value: Any, low: float | int, high: float | int, what: str) -> float:
    """A number within its limits; ValueError says what came in its place."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"{what} is a number from {low:g} to {high:g}, and {_said(value)}.")
    return float(value)


def _said(value: Any) -> str:
    return "none was given" if value is None or value == "" else f"{str(value)[:40]} was given"
