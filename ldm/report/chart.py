"""Charts as inline SVG, drawn by matplotlib, without scripts. Colours and the font come from the page's style, for light and
dark mode: a colour is drawn as a mark that is replaced by a variable of the style.

A noisy curve is drawn twice: once unchanged and faint, and once smoothed (ldm.report.curve). The range of the y axis contains the
smooth curve and most of the raw one, so that a single spike does not flatten the rest.

The labels of ticks have as many digits as are needed to distinguish neighbours, and the frame begins where the widest label
ends. Values that are not finite cannot be drawn; they are left out, and their number is shown.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from ldm.report.curve import drawable, smoothed, thinned
from ldm.report.words import labels, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STROKES = "abcdefgh"
"""Classes of strokes, in their order."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 200, 34, 8, 8, 24  # units of the picture, about pixels
_GLYPH, _BESIDE, _SIZE, _FEW, _LOG_RATIO = 6.4, 7.0, 10, 12, 8.0
_WHOLE = ("images", "updates")  # places that are integers
_SAME = 1e-9  # relative; finer differences are rounding
_MARKS = {name: f"#0000{i:02x}" for i, name in enumerate((*STROKES, "ink", "quiet", "line", "paper"), start=0xA0)}
_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ldm", "font.size": _SIZE, "text.color": _MARKS["quiet"]},
    **{"axes.facecolor": "none", "figure.facecolor": "none", "axes.edgecolor": _MARKS["quiet"], "axes.linewidth": 0.8},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.unicode_minus": False},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0},
    **{"xtick.color": _MARKS["quiet"], "ytick.color": _MARKS["quiet"], "grid.color": _MARKS["line"]},
    **{"axes.axisbelow": True, "lines.solid_joinstyle": "round", "text.parse_math": False},
}


@dataclass(frozen=True)
class Line:
    """A curve.

    Fields:
        label: its name in the legend.
        points: (x, y) with increasing x.
        stroke: the class of its stroke in the page's style, one of `STROKES`; empty for one that is only in the background.
        edges: of a band around it, (x, lower, upper). A curve with a band is smooth as it is.
    """

    label: str
    points: Sequence[tuple[float, float]]
    stroke: str = "a"
    edges: Sequence[tuple[float, float, float]] | None = None


@dataclass(frozen=True)
class Dot:
    """A point of a chart of two numbers.

    Fields:
        label: what is written beside it, if there is room.
        x, y: where it is; positive x.
        error: of y, on both sides; 0 for none.
        front: whether no other is as good in both numbers.
    """

    label: str
    x: float
    y: float
    error: float = 0.0
    front: bool = field(default=False)


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
    with _Canvas(title) as canvas:
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
    colour = _MARKS[line.stroke or "quiet"]
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
    with _Canvas(title) as canvas:
        canvas.frame((left / 1.15, right * (1.6 if right > left else 1.15)), (low, high), log, "", log_x=True)
        front = sorted((dot for dot in known if dot.front), key=lambda dot: dot.x)
        canvas.axes.plot([d.x for d in front], [d.y for d in front], color=_MARKS["a"], linewidth=1.2, alpha=0.6)
        for dot in known:
            colour = _MARKS["a" if dot.front else "quiet"]
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


class _Canvas:
    """A picture under way; `svg` is there at the end of the block."""

    def __init__(self, title: str):
        self.title, self.svg = title, ""

    def __enter__(self) -> _Canvas:
        import matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        self.figure: Figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                out = io.StringIO()
                self.figure.savefig(
                    out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
                )
                self.svg = _tidied(out.getvalue(), self.title)
        finally:
            self._style.__exit__(None, None, None)

    def frame(
        self, across: tuple[float, float], up: tuple[float, float], log: bool, x_label: str, log_x: bool = False
    ) -> None:
        """Ranges, ticks and their labels, the last of which has the unit of the x axis."""
        heights = log_ticks(*up) if log else ticks(*up)
        along = log_ticks(*across) if log_x else ticks(*across, whole=x_label in _WHOLE)
        told = labels(heights)
        left = max(_LEFT, round(_GLYPH * max(map(len, told)) + _BESIDE))
        box = (
            left / _WIDTH,
            _BOTTOM / _HEIGHT,
            (_WIDTH - left - _RIGHT) / _WIDTH,
            (_HEIGHT - _TOP - _BOTTOM) / _HEIGHT,
        )
        self.axes.set_position(box)
        self.axes.set(xscale="log" if log_x else "linear", yscale="log" if log else "linear", xlim=across, ylim=up)
        self.axes.minorticks_off()
        self.axes.set_yticks(heights, told)
        words = labels(along)
        words[-1] = f"{words[-1]} {x_label}".rstrip()
        self.axes.set_xticks(along, words)
        share = self.axes.transAxes.inverted().transform(self.axes.transData.transform((along[-1], up[0])))[0]
        if (1 - share) * (_WIDTH - _RIGHT - left) < 0.55 * _GLYPH * len(words[-1]):
            self.axes.set_xticks(along, [*words[:-1], ""])
            self.axes.text(1, -0.025, words[-1], ha="right", va="top", transform=self.axes.transAxes)
        self.axes.grid(True, axis="y", linewidth=0.8)

    def write(self, dots: Sequence[Dot]) -> None:
        """The names of dots, the best first, each where it covers neither a dot nor a name; one without room is left out."""
        places = [self.axes.transData.transform((dot.x, dot.y)) for dot in dots]
        taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
        frame = self.axes.bbox
        for i in sorted(range(len(dots)), key=lambda i: not dots[i].front):
            (x, y), wide = places[i], 0.82 * _GLYPH * len(dots[i].label)
            for dx, dy, side in (
                (6, -3, "left"),
                (-6, -3, "right"),
                (0, 6, "center"),
                (0, -13, "center"),
                (6, 6, "left"),
                (6, -12, "left"),
            ):
                begin = x + dx - {"left": 0, "right": wide, "center": wide / 2}[side]
                box = (begin, y + dy - 1, begin + wide, y + dy + 9)
                inside = frame.x0 <= box[0] and box[2] <= _WIDTH and frame.y0 <= box[1] and box[3] <= frame.y1 + _TOP
                if inside and not any(_meet(box, other) for j, other in enumerate(taken) if j != i):
                    colour = _MARKS["ink" if dots[i].front else "quiet"]
                    at = self.axes.transData.inverted().transform((x + dx, y + dy))
                    self.axes.text(*at, dots[i].label, ha=side, fontsize=_SIZE - 1, color=colour)
                    taken.append(box)
                    break


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return bool(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def _tidied(svg: str, title: str) -> str:
    """matplotlib's file as a part of a page: without what a file has of its own, with the page's colours and font, and with names
    that no other chart has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</defs>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<svg [^>]*>", f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">', svg, count=1
    )
    svg = re.sub(r'(\b(?:d|x|y|transform|points)=")([^"]*)"', lambda found: f'{found[1]}{_coarse(found[2])}"', svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", svg))
    own = hashlib.blake2b(f"{title} {svg}".encode(), digest_size=4).hexdigest()
    svg = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{found[1]}-{own}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)([\w-]+)', lambda found: f"{found[1]}{found[2]}-{own}", svg)
    for name, mark in _MARKS.items():
        svg = svg.replace(mark, f"var(--{name})")
    return svg.replace("xlink:href", "href").strip()


def _coarse(numbers: str) -> str:
    return " ".join(re.sub(r"(\.\d)\d+", r"\1", numbers).split())


def _figure(name: str, legend: str, svg: str) -> str:
    return f'<figure class="chart"><figcaption><span>{name}</span><span>{legend}</span></figcaption>{svg}</figure>'


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


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 3, or 2 and 5, between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
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
    spread = high - low if high - low > _SAME * max(abs(high), abs(low)) else 0.0
    room = spread * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low <= (high - low) * 0.3 else low - room), high + room
