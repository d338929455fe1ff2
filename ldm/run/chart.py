"""Line charts as inline SVG, without a library or scripts. Colours come from the page's style, for light and dark mode.

A noisy curve is drawn twice: once unchanged and faint, and once smoothed. Smoothing takes medians of three, so that single
outliers have no effect, and then a Gaussian average over about a twentieth of the curve, which is symmetric and so does not lag
behind like a running average. The range of the y axis contains the smooth curve and most of the raw one, so that a single spike
does not flatten the rest.

The labels of ticks have as many digits as are needed to distinguish neighbours, and the frame begins where the widest label
ends. Values that are not finite cannot be drawn; they are left out, and their number is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 220, 50, 10, 10, 26
_POINTS, _WINDOW, _FEW, _LOG_RATIO = 400, 20, 12, 8.0
_LARGEST = 1e200  # sums of greater values could leave the range of a float
_LETTERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_SAME = 1e-9  # relative; finer differences are rounding
_GLYPH, _BESIDE = 7.0, 7.0  # pixels: a digit of a wide font at the size of labels; between a label and the frame


@dataclass(frozen=True)
class Line:
    """A curve.

    Fields:
        label: its name in the legend.
        points: (x, y) with increasing x.
        stroke: the class of its stroke in the page's style: `a`, `b` or `c`.
    """

    label: str
    points: Sequence[tuple[float, float]]
    stroke: str = "a"


def drawable(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that can be drawn: those with finite numbers of a reasonable size."""
    return [(x, y) for x, y in points if math.isfinite(x) and abs(y) <= _LARGEST]  # NaN is not


def thinned(points: Sequence[tuple[float, float]], most: int = _POINTS) -> list[tuple[float, float]]:
    """At most `most` points, by averaging neighbours."""
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
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


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round numbers within [low, high]; with `whole` they are integers."""
    if not high > low:
        return [low]
    raw = max((high - low) / max(count - 1, 1), 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 2.5, 5, 10) if not whole or (m * power).is_integer()]
    step = next(step for step in steps if step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 6)]


def _range(raw: Sequence[float], smooth: Sequence[float], log: bool) -> tuple[float, float]:
    order = sorted(raw)
    low = min(min(smooth), order[len(order) // 50])
    high = max(max(smooth), order[-1 - len(order) // 50])
    if log:
        return low / 1.1, high * 1.1
    spread = high - low if high - low > _SAME * max(abs(high), abs(low)) else 0.0
    room = spread * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low <= (high - low) * 0.3 else low - room), high + room


def _path(points: Sequence[tuple[float, float]], across, up) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def line_chart(title: str, lines: Sequence[Line], x_label: str = "images", from_zero: bool = False) -> str:
    """A chart of one quantity in the course of training, as HTML with SVG; empty where there are no points.

    The y axis is logarithmic where all values are positive and the smoothed curves change by more than a factor of eight.

    Arguments:
        title: the title of the chart.
        lines: the curves.
        x_label: the unit of the x axis.
        from_zero: whether the y axis begins at zero.
    """
    finite = [(line, drawable(line.points)) for line in lines]
    missing = sum(len(line.points) - len(points) for line, points in finite)
    curves = [(line, thinned(points)) for line, points in finite if points]
    note = f" <small>{missing} not finite</small>" if missing else ""
    if not curves:
        return _figure(escape(title) + note, "", "") if missing else ""
    curves = [(line, raw, smoothed(raw)) for line, raw in curves]
    values = [y for _, raw, _ in curves for _, y in raw]
    smooth = [y for _, _, points in curves for _, y in points]
    log = not from_zero and min(values) > 0 and max(smooth) / min(smooth) > _LOG_RATIO
    low, high = _range(values, smooth, log)
    low = 0.0 if from_zero else low
    end = max(raw[-1][0] for _, raw, _ in curves) or 1.0
    of = math.log10 if log else float
    heights = _log_ticks(low, high) if log else ticks(low, high)
    left = max(_LEFT, round(_GLYPH * max(map(len, labels(heights))) + _BESIDE))

    def across(x: float) -> float:
        return left + (_WIDTH - left - _RIGHT) * x / end

    def up(y: float) -> float:
        share = (of(y) - of(low)) / (of(high) - of(low))
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(max(share, -0.02), 1.02)

    parts = _frame(left, end, heights, across, up, x_label)
    for line, raw, points in curves:
        if len(raw) == 1:
            x, y = raw[0]
            parts.append(f'<circle class="dot {line.stroke}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>')
        elif len(raw) >= _FEW:
            parts.append(f'<polyline class="raw {line.stroke}" points="{_path(raw, across, up)}"/>')
        parts.append(f'<polyline class="line {line.stroke}" points="{_path(points, across, up)}"/>')
    legend = " ".join(
        f'<span class="key {line.stroke}">{escape(line.label)} <b>{short(points[-1][1], 4)}</b></span>'
        for line, _, points in curves
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return _figure(f"{escape(title)}{' <small>log</small>' if log else ''}{note}", legend, svg)


def _figure(name: str, legend: str, svg: str) -> str:
    return f'<figure class="chart"><figcaption><span>{name}</span><span>{legend}</span></figcaption>{svg}</figure>'


def _frame(left: int, end: float, heights: Sequence[float], across, up, x_label: str) -> list[str]:
    right, bottom, parts = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, []
    for y, label in zip(heights, labels(heights), strict=True):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{left - _BESIDE:.0f}" y="{up(y) + 3.5:.1f}" text-anchor="end">{label}</text>')
    along = ticks(0.0, end, whole=True)
    for x, label in zip(along, labels(along), strict=True):
        last = x == along[-1]
        anchor = "end" if last and across(x) > right - 40 else "middle"
        place = right if anchor == "end" else across(x)
        text = f"{label} {x_label}" if last else label
        parts.append(f'<text x="{place:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return parts
