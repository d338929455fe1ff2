"""The picture of a chart: matplotlib's, with the page's colours and font in the place of its own, and ticks that can be read.

A colour is drawn as a mark, which is replaced by a variable of the page's style when the picture is done.
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

from ldm.report.words import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STROKES = "abcdefgh"
"""Classes of strokes, in their order."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 200, 34, 8, 8, 24  # units of the picture, about pixels
_GLYPH, _BESIDE, _SIZE = 6.4, 7.0, 10
_WHOLE = ("images", "updates")  # places that are integers
MARKS = {name: f"#0000{i:02x}" for i, name in enumerate((*STROKES, "ink", "quiet", "line", "paper"), start=0xA0)}
"""The colour that is drawn for a variable of the page's style."""

_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ldm", "font.size": _SIZE, "text.color": MARKS["quiet"]},
    **{"axes.facecolor": "none", "figure.facecolor": "none", "axes.edgecolor": MARKS["quiet"], "axes.linewidth": 0.8},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.unicode_minus": False},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0},
    **{"xtick.color": MARKS["quiet"], "ytick.color": MARKS["quiet"], "grid.color": MARKS["line"]},
    **{"axes.axisbelow": True, "lines.solid_joinstyle": "round", "text.parse_math": False},
}


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


class Canvas:
    """A picture under way; `svg` is there at the end of the block."""

    def __init__(self, title: str):
        self.title, self.svg = title, ""

    def __enter__(self) -> Canvas:
        import matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        # Of 72 dots an inch, for which a unit of the picture is a pixel of what `write` lays out.
        self.figure: Figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
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
            (x, y), wide = places[i], 0.9 * _GLYPH * len(dots[i].label)
            for dx, dy, side in (
                (6, -3, "left"),
                (-6, -3, "right"),
                (0, 6, "center"),
                (0, -13, "center"),
                (6, 6, "left"),
                (6, -12, "left"),
                (-6, 6, "right"),
                (-6, -12, "right"),
            ):
                begin = x + dx - {"left": 0, "right": wide, "center": wide / 2}[side]
                box = (begin, y + dy - 1, begin + wide, y + dy + 9)
                inside = frame.x0 <= box[0] and box[2] <= _WIDTH and frame.y0 <= box[1] and box[3] <= frame.y1 + _TOP
                if inside and not any(_meet(box, other) for j, other in enumerate(taken) if j != i):
                    colour = MARKS["ink" if dots[i].front else "quiet"]
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
    for name, mark in MARKS.items():
        svg = svg.replace(mark, f"var(--{name})")
    return svg.replace("xlink:href", "href").strip()


def _coarse(numbers: str) -> str:
    return " ".join(re.sub(r"(\.\d)\d+", r"\1", numbers).split())


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
    """Powers of ten within [low, high], with 3, or 2 and 5, or more between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10)):
        found = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 6)] if found else [low, high]
