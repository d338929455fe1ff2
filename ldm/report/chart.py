"""Charts as inline SVG, drawn by matplotlib, without scripts. Colours and the font come from the page's style, for light and
dark mode (ldm.report.canvas).

A noisy curve is drawn twice: once unchanged and faint, and once smoothed (ldm.report.curve). The range of the y axis contains the
smooth curve and most of the raw one, so that a single spike does not flatten the rest.

The labels of ticks have as many digits as are needed to distinguish neighbours, and the frame begins where the widest label
ends. Values that are not finite cannot be drawn; they are left out, and their number is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ldm.report.canvas import MARKS, Canvas, Dot
from ldm.report.curve import drawable, smoothed, thinned
from ldm.report.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW, _LOG_RATIO = 12, 8.0
_BARS = 6
_SAME = 1e-9  # relative; finer differences are rounding


@dataclass(frozen=True)
class Line:
    """A curve.

    Fields:
        label: its name in the legend.
        points: (x, y) with increasing x.
        stroke: the class of its stroke in the page's style, one of `canvas.STROKES`; empty for one in the background.
        edges: of a band around it, (x, lower, upper). A curve with a band is smooth as it is.
    """

    label: str
    points: Sequence[tuple[float, float]]
    stroke: str = "a"
    edges: Sequence[tuple[float, float, float]] | None = None


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
    drawn = [(line, raw, raw if line.edges is not None else smoothed(raw)) for line, raw in curves]
    values = [y for _, raw, _ in drawn for _, y in raw]
    smooth = [y for _, _, points in drawn for _, y in points]
    log = not from_zero and min(values) > 0 and max(smooth) / min(smooth) > _LOG_RATIO
    low, high = _range(values, smooth, log)
    low = 0.0 if from_zero else low
    end = max(raw[-1][0] for _, raw, _ in drawn) or 1.0
    with Canvas(title) as canvas:
        canvas.frame((0.0, end), (low, high), log, x_label)
        for line, raw, points in drawn:
            _draw(canvas.axes, line, raw, points)
    legend = " ".join(
        f'<span class="key {line.stroke}">{escape(line.label)} <b>{short(points[-1][1], 4)}</b></span>'
        for line, _, points in drawn
        if line.stroke
    )
    return _figure(f"{escape(title)}{' <small>log</small>' if log else ''}{note}", legend, canvas.svg)


def _draw(axes: Axes, line: Line, raw: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]) -> None:
    colour = MARKS[line.stroke or "quiet"]
    if line.edges:
        x, low, high = zip(*line.edges, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if line.edges is None and len(raw) >= _FEW:
        axes.plot(*zip(*raw, strict=True), color=colour, linewidth=0.8, alpha=0.28)
    marker = "o" if len(raw) == 1 else ""
    wide, faint = (1.6, 1.0) if line.stroke else (0.8, 0.35)
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=wide, alpha=faint, marker=marker, markersize=4)


def dot_chart(title: str, dots: Sequence[Dot], x_label: str, better: str) -> str:
    """A chart of one number over another, whose axis is logarithmic, with the line of those that no other is as good as in both;
    empty for fewer than two dots.

    Arguments:
        x_label: what is on the x axis.
        better: what stands beside the title: which way is better.
    """
    known = [dot for dot in dots if math.isfinite(dot.x) and dot.x > 0 and abs(dot.y) < math.inf]
    if len(known) < 2:
        return ""
    values = [y for dot in known for y in (dot.y - dot.error, dot.y + dot.error)]
    middle = [dot.y for dot in known]
    log = min(values) > 0 and max(middle) / min(middle) > _LOG_RATIO
    low, high = _range(values, values, log)
    left, right = min(dot.x for dot in known), max(dot.x for dot in known)
    with Canvas(title) as canvas:
        canvas.frame((left / 1.15, right * (1.6 if right > left else 1.15)), (low, high), log, "", log_x=True)
        front = sorted((dot for dot in known if dot.front), key=lambda dot: dot.x)
        canvas.axes.plot([d.x for d in front], [d.y for d in front], color=MARKS["a"], linewidth=1.2, alpha=0.6)
        for dot in known:
            colour = MARKS["a" if dot.front else "quiet"]
            if dot.error:
                canvas.axes.plot(
                    [dot.x] * 2, [dot.y - dot.error, dot.y + dot.error], color=colour, linewidth=1, alpha=0.6
                )
            canvas.axes.plot([dot.x], [dot.y], "o", color=colour, markersize=4.5)
        canvas.write(known)
    return _figure(
        f"{escape(title)} over {escape(x_label)}{' <small>log</small>' if log else ''}",
        f'<span class="quiet">{escape(better)}</span>',
        canvas.svg,
    )


def bar_chart(title: str, bars: Sequence[tuple[str, float]]) -> str:
    """A chart of shares of one, a bar each with its name above; of many the first."""
    with Canvas(title) as canvas:
        axes, shown = canvas.axes, bars[:_BARS]
        axes.set_position((0.02, 0.02, 0.96, 0.96))
        axes.set(xlim=(0, 1), ylim=(_BARS - 0.4, -0.6))
        axes.set_axis_off()
        for place, (name, share) in enumerate(shown):
            axes.barh(place + 0.1, share, height=0.3, color=MARKS["a"])
            axes.text(0, place - 0.12, f"{name}  {share:.2f}", va="bottom", color=MARKS["ink"])
    more = f'<span class="quiet">{len(bars) - _BARS} more</span>' if len(bars) > _BARS else ""
    return _figure(escape(title), more, canvas.svg)


def _figure(name: str, legend: str, svg: str) -> str:
    return f'<figure class="chart"><figcaption><span>{name}</span><span>{legend}</span></figcaption>{svg}</figure>'


def _range(raw: Sequence[float], smooth: Sequence[float], log: bool) -> tuple[float, float]:
    order = sorted(raw)
    low = min(min(smooth), order[len(order) // 50])
    high = max(max(smooth), order[-1 - len(order) // 50])
    if log:
        return low / 1.1, high * 1.1
    spread = high - low if high - low > _SAME * max(abs(high), abs(low)) else 0.0
    room = spread * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low <= (high - low) * 0.3 else low - room), high + room
