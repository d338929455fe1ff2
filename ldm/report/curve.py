"""Curves: read from `metrics.jsonl`, smoothed, thinned and averaged over seeds, before anything is drawn.

Smoothing takes medians of three, so that single outliers have no effect, and then a Gaussian average over about a twentieth of
the curve, which is symmetric and so does not lag behind like a running average.

The mean over seeds is taken where all of them have been, at common places between which each curve is a straight line; the band
around it is the deviation between seeds on both sides.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Points = Sequence[tuple[float, float]]

AXES = {"step": "updates", "images": "images", "seconds": "seconds", "flops": "FLOPs"}
"""Fields of a row of metrics.jsonl that a curve is drawn over, and what they are called."""
PLACE = ("stage", *AXES)
SPEED = ("images_per_second", "wait")

_POINTS, _WINDOW, _FEW, _PLACES, _MOST = 400, 20, 12, 120, 4000
_LARGEST = 1e200  # sums of greater values could leave the range of a float


def curves(rows: Iterable[Mapping[str, Any]], stage: str, axis: str = "images") -> dict[str, list[tuple[float, float]]]:
    """Points (place on the axis, value) of a stage by name; a row without such a place, as of a version without it, has none."""
    every = traces(row for row in rows if row.get("stage") == stage)
    place = list(AXES).index(axis)
    found = {
        name: [(x, value) for places, value in trace if (x := places[place]) is not None]
        for (_, name), trace in every.items()
    }
    return {name: points for name, points in found.items() if points}


Trace = list[tuple[tuple[float | None, ...], float]]
"""(places on the `AXES`, value) in the order of training."""


def traces(rows: Iterable[Mapping[str, Any]], most: int = _MOST) -> dict[tuple[str, str], Trace]:
    """All numbers by stage and name. Of a long training every second point is dropped whenever there are too many to be drawn, so
    that a file of any length needs little memory."""
    found: dict[tuple[str, str], Trace] = {}
    strides: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        places = tuple(float(x) if _is_number(x := row.get(axis)) else None for axis in AXES)
        for name, value in row.items():
            if name not in PLACE and _is_number(value):
                key = (str(row.get("stage")), name)
                trace, stride = found.setdefault(key, []), strides.setdefault(key, [1, 0])
                stride[1] += 1
                if stride[1] % stride[0] == 0:
                    trace.append((places, float(value)))
                if len(trace) >= most:
                    del trace[::2]
                    stride[0] *= 2
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def named(name: str) -> tuple[str, int]:
    """The quantity that a name in metrics.jsonl stands for, and 0 for training, 1 for validation, or 2 for validation with
    averaged weights."""
    base = re.sub(r"(^|/)val[ _/]", r"\1", name)
    if base == name:
        return name, 0
    averaged = re.sub(r"[ _/]?\(?averaged?\)?$", "", base)
    return averaged, 1 if averaged == base else 2


def drawable(points: Points) -> list[tuple[float, float]]:
    """The points that can be drawn: those with finite numbers of a reasonable size."""
    return [(x, y) for x, y in points if math.isfinite(x) and abs(y) <= _LARGEST]  # NaN is not


def thinned(points: Points, most: int = _POINTS) -> list[tuple[float, float]]:
    """At most `most` points, by averaging neighbours."""
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smoothed(points: Points) -> list[tuple[float, float]]:
    """The curve smoothed: Gaussian averages of medians of three. A curve with few points is left unchanged."""
    if len(points) < _FEW:
        return list(points)
    values = [y for _, y in points]
    calm = [sorted(values[max(0, i - 1) : i + 2])[1] for i in range(len(values))]
    calm[0], calm[-1] = values[0], values[-1]
    width = len(points) / _WINDOW / 4
    reach = math.ceil(2.5 * width)
    weights = [math.exp(-0.5 * (k / width) ** 2) for k in range(reach + 1)]
    found = []
    for i, (x, _) in enumerate(points):
        near = range(max(0, i - reach), min(len(points), i + reach + 1))
        total = sum(weights[abs(k - i)] for k in near)
        found.append((x, sum(weights[abs(k - i)] * calm[k] for k in near) / total))
    return found


@dataclass(frozen=True)
class Band:
    """A curve averaged over seeds.

    Fields:
        mean: points.
        edges: (x, lower, upper), a deviation between seeds below and above; empty for a single seed.
        seeds: how many were averaged.
    """

    mean: Points
    edges: Sequence[tuple[float, float, float]]
    seeds: int


def averaged(each: Sequence[Points]) -> Band:
    """The mean of the curves of several seeds, with increasing places, where all of them have been."""
    known = [smoothed(thinned(points)) for points in map(drawable, each) if points]
    if len(known) <= 1:
        return Band(known[0] if known else [], [], len(known))
    begin, end = max(points[0][0] for points in known), min(points[-1][0] for points in known)
    places = sorted({x for points in known for x, _ in points if begin <= x <= end})
    places = places[:: max(1, len(places) // _PLACES)]
    mean, edges = [], []
    for x in places:
        values = [_at(points, x) for points in known]
        middle = sum(values) / len(values)
        deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))
        mean.append((x, middle))
        edges.append((x, middle - deviation, middle + deviation))
    return Band(mean, edges, len(known))


def _at(points: Points, x: float) -> float:
    """A curve's height at a place within it, on the line between its neighbours."""
    i = min(bisect.bisect_left(points, x, key=lambda point: point[0]), len(points) - 1)
    (right, above) = points[i]
    if right == x or i == 0:
        return above
    left, below = points[i - 1]
    return below + (above - below) * (x - left) / (right - left)
