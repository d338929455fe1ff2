"""Line charts as inline SVG: no library, no script, colours from the page's style so that they follow light and dark.

A noisy curve is drawn twice: as it is, faint, and averaged under a Gaussian of about a twentieth of its length, to both
sides, so that it does not lag as a running average would, and of medians of three, so that one outlier does not move
it. The frame follows the smooth curve and most of the raw one, so that one spike does not flatten the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 220, 50, 10, 10, 26
_POINTS, _WINDOW, _FEW, _LOG_RATIO = 400, 20, 12, 8.0


@dataclass(frozen=True)
class Line:
    """A curve: label, points (x ascending), and the class of its stroke: `a`, `b` or `c`."""

    label: str
    points: Sequence[tuple[float, float]]
    stroke: str = "a"


def thinned(points: Sequence[tuple[float, float]], most: int = _POINTS) -> list[tuple[float, float]]:
    """At most `most` points, neighbours averaged; points that are not finite are left out."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(finite) // most)
    if size <= 1:
        return finite
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Gaussian average of a curve's medians of three, over neighbours on both sides; a short one is left alone."""
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


def short(value: float) -> str:
    """A number for an axis: 1500 is 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return "0" if value == 0 else f"{value:.3g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 6)] if found else [low, high]


def _range(raw: Sequence[float], smooth: Sequence[float], log: bool) -> tuple[float, float]:
    order = sorted(raw)
    low = min(min(smooth), order[len(order) // 50])
    high = max(max(smooth), order[-1 - len(order) // 50])
    if log:
        return low / 1.1, high * 1.1
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < (high - low) * 0.3 else low - room), high + room


def _path(points: Sequence[tuple[float, float]], across, up) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def line_chart(title: str, lines: Sequence[Line], x_label: str = "images", from_zero: bool = False) -> str:
    """An SVG figure of one quantity over training; empty where nothing finite is to be drawn.

    The y axis is logarithmic where all values are positive and the smoothed curve falls or rises eightfold.
    """
    curves = [(line, thinned(line.points)) for line in lines]
    curves = [(line, raw, smoothed(raw)) for line, raw in curves if raw]
    if not curves:
        return ""
    values = [y for _, raw, _ in curves for _, y in raw]
    smooth = [y for _, _, points in curves for _, y in points]
    log = not from_zero and min(values) > 0 and max(smooth) / min(smooth) > _LOG_RATIO
    low, high = _range(values, smooth, log)
    low = 0.0 if from_zero else low
    end = max(raw[-1][0] for _, raw, _ in curves) or 1.0
    of = math.log10 if log else float

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / end

    def up(y: float) -> float:
        share = (of(y) - of(low)) / (of(high) - of(low))
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(max(share, -0.02), 1.02)

    parts = _frame(end, _log_ticks(low, high) if log else ticks(low, high), across, up, x_label)
    for line, raw, points in curves:
        if len(raw) == 1:
            x, y = raw[0]
            parts.append(f'<circle class="dot {line.stroke}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>')
        elif len(raw) >= _FEW:
            parts.append(f'<polyline class="raw {line.stroke}" points="{_path(raw, across, up)}"/>')
        parts.append(f'<polyline class="line {line.stroke}" points="{_path(points, across, up)}"/>')
    legend = " ".join(
        f'<span class="key {line.stroke}">{escape(line.label)} <b>{short(points[-1][1])}</b></span>'
        for line, _, points in curves
    )
    name = f"{escape(title)}{' <small>log</small>' if log else ''}"
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="chart"><figcaption><span>{name}</span><span>{legend}</span></figcaption>{svg}</figure>'


def _frame(end: float, heights: Sequence[float], across, up, x_label: str) -> list[str]:
    right, bottom, parts = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, []
    for y in heights:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{up(y) + 3.5:.1f}" text-anchor="end">{short(y)}</text>')
    along = ticks(0.0, end, 5)
    for x in along:
        label = f"{short(x)} {x_label}" if x == along[-1] else short(x)
        anchor = "end" if x == along[-1] and across(x) > right - 40 else "middle"
        place = right if anchor == "end" else across(x)
        parts.append(f'<text x="{place:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{label}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return parts
