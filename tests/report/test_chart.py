"""Charts: what they say of the points is true, and all that they say can be read."""

import math
import re
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import ImageFont

from ldm.report.canvas import Canvas, Dot, ticks
from ldm.report.chart import Line, dot_chart, line_chart
from ldm.report.curve import smoothed, thinned
from ldm.report.words import labels, short
from tests.pieces import CONF
from tests.report.page import Page

WIDE = CONF.parent / "ldm" / "callback" / "font" / "DejaVuSans.ttf"  # the widest of the page's fonts
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}

# (lowest, highest) value of a curve
RANGES = [
    *[(0.001, 0.0023), (0.00095, 0.00123), (1e-5, 1.04e-5), (2e-9, 3e-9), (1e-38, 1.1e-38), (0.0, 1e-30)],
    *[(0.99999, 1.00001), (2.7181, 2.7183), (0.123456, 0.123457), (14.231, 14.245), (100.0, 100.001)],
    *[(1e6, 1.0001e6), (123456.0, 123460.0), (999.0, 1001.0), (999e3, 1.001e6), (1e9, 1e9 + 7), (3e38, 3.4e38)],
    *[
        (0.0, 1.0),
        (0.0, 384e3),
        (0.0, 1e12),
        (0.0, 1e15),
        (-3.0, 7.0),
        (-0.0004, 0.0003),
        (-1e7, 1e7),
        (-1.5e-7, -1e-7),
    ],
    *[(-1001.0, -1000.0), (-1e30, 1.0), (-1e6, -0.99e6), (5.0, 5.0), (-1e-12, -1e-12), (1e20, 1e20), (0.0, 0.0)],
    *[(0.3, 0.1 + 0.2), (1e-3, 1e3), (1e-30, 1e30), (1.0, 9.0), (0.04, 1.0), (1e-200, 1e-190), (1e-5, 0.5)],
]


def texts(svg: str) -> list[tuple[str, float, float, str]]:
    """(text, x, y, anchor) of everything written in a chart."""
    found = re.findall(r'<text style="[^"]*text-anchor: (\w+)[^"]*" x="([^"]*)" y="([^"]*)"[^>]*>([^<]*)</text>', svg)
    return [(text, float(x), float(y), anchor) for anchor, x, y, text in found]


def value(label: str) -> float:
    number, unit = re.fullmatch(r"(.*?)([kMG]?)", label).groups()
    return float(number) * UNITS[unit]


def drawn(low: float, high: float) -> str:
    return line_chart("loss", [Line("training", [(64.0 * i, low + (high - low) * i / 50) for i in range(51)])])


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_labels_are_different_and_inside_the_picture(low, high):
    svg, font = drawn(low, high), ImageFont.truetype(WIDE, 10)
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    written, boxes = texts(svg), []
    for text, x, y, anchor in written:
        left = x - font.getlength(text) * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        boxes.append((left, y - 8, left + font.getlength(text), y))
        assert left >= 0 and boxes[-1][2] <= width and y - 8 >= 0 and y + 3 <= height, text
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or one[3] <= other[1], written
    along = [text for text, _, y, _ in written if y > height - 20]
    up = [text for text, _, y, _ in written if y <= height - 20]
    assert len(set(up)) == len(up) >= 2 and len(set(along)) == len(along) >= 2
    assert all(a < b for a, b in pairwise(map(value, up)))


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_labels_stand_where_their_values_are(low, high):
    """Heights are affine in the labels' values, or in their logarithms."""
    svg = drawn(low, high)
    of = math.log10 if "<small>log</small>" in svg else float
    places = [(of(value(text)), y) for text, _, y, _ in texts(svg) if y <= 180]
    (first, top), (last, bottom) = places[0], places[-1]
    for v, y in places:
        assert y == pytest.approx(top + (v - first) / (last - first) * (bottom - top), abs=2.0)


def test_ticks_are_round_and_inside():
    for low, high in ((0.0, 1.0), (-3.0, 7.0), (0.013, 0.0141), (0.0, 384e3), (1e-9, 3e-9)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 9 and low - 1e-12 <= found[0] and found[-1] <= high * (1 + 1e-9)
    assert ticks(0.0, 1.0) == [0, 0.25, 0.5, 0.75, 1.0] and ticks(2.0, 2.0) == [2]
    assert ticks(0.0, 1.0, whole=True) == [0, 1] and ticks(0.0, 10.0, whole=True) == [0, 5, 10]


def test_a_number_is_short():
    wanted = {
        0.0: "0",
        1500.0: "1.5k",
        2e6: "2M",
        0.05: "0.05",
        384e3: "384k",
        999.9: "1k",
        1e-6: "1e-6",
        -4e20: "-4e20",
    }
    assert {v: short(v) for v in wanted} == wanted
    assert short(1234.5, 5) == "1.2345k" and short(999_960.0) == "1M" and short(3e12) == "3e12"


def test_labels_have_the_digits_that_tell_them_apart():
    assert labels([0.001, 0.0012, 0.0014]) == ["0.001", "0.0012", "0.0014"]
    assert labels([0.0012, 0.00125, 0.0013]) == ["0.0012", "0.00125", "0.0013"]
    assert labels([14.232, 14.236, 14.24]) == ["14.232", "14.236", "14.24"]
    assert labels([100_000.0, 100_002.0]) == ["100k", "100.002k"]
    assert labels([0.1 + 0.2]) == ["0.3"] and labels([]) == []


def test_smoothing_neither_lags_nor_follows_an_outlier():
    line = [(float(x), 3.0 * x) for x in range(100)]
    inner = smoothed(line)[20:-20]
    assert all(y == pytest.approx(3 * x) for x, y in inner)
    spiked = [(float(x), 100.0 if x == 50 else 1.0) for x in range(100)]
    assert all(y == pytest.approx(1) for _, y in smoothed(spiked))
    assert smoothed(line[:5]) == line[:5]


def test_thinning_averages_neighbours():
    thin = thinned([(float(i), float(i % 2)) for i in range(1000)], 100)
    assert len(thin) == 100 and all(y == 0.5 for _, y in thin) and thin[0][0] == 4.5


def test_what_is_not_finite_is_left_out_and_told():
    rest = [(float(x), 1.0 + x) for x in range(4)]
    bad = [(4.0, math.nan), (5.0, math.inf), (6.0, -math.inf), (7.0, 1e300), (math.inf, 1.0)]
    holed, plain = line_chart("a", [Line("b", rest + bad)]), line_chart("a", [Line("b", rest)])
    assert "5 not finite" in holed and "not finite" not in plain
    assert holed.replace(" <small>5 not finite</small>", "") == plain


def test_a_quantity_that_never_was_finite_is_told():
    svg = line_chart("loss", [Line("training", [(8.0, math.nan), (16.0, math.nan)])])
    assert Page(svg).text == "loss 2 not finite" and "svg" not in svg
    assert line_chart("loss", [Line("training", [])]) == line_chart("loss", []) == ""


@pytest.mark.parametrize("points", [[(8.0, 1.0)], [(0.0, 0.0)], [(8.0, 2.0), (16.0, 2.0)], [(8.0, -1.0), (9.0, 1e9)]])
def test_odd_curves_are_drawn(points):
    svg = line_chart("a", [Line("b", points)])
    coordinates = [float(n) for path in re.findall(r' d="([^"]*)"', svg) for n in re.findall(r"-?[\d.]+", path)]
    assert "nan" not in svg and all(-10 <= c <= 400 for c in coordinates)
    assert ("<use" in svg) is (len(points) == 1)
    Page(svg)


def test_a_dot_at_the_right_end_is_named_where_there_is_room():
    """On its left, for names are laid out in the units of the picture."""
    dots = [Dot("cheap", 1.0, 3.0), Dot("a rather long name", 1000.0, 1.0), Dot("between", 30.0, 2.0)]
    chart = dot_chart("fd", dots, "steps", "lower is better")
    assert all(dot.label in chart for dot in dots)


def test_names_of_dots_do_not_cover_each_other():
    dots = [Dot(f"setting number {i}", 1.0 + i / 40, 1.0 + (i * 7 % 20) / 20) for i in range(20)]
    with Canvas("names") as canvas:
        canvas.frame((0.9, 1.7), (0.9, 2.1), False, "", log_x=True)
        canvas.write(dots)
        renderer = FigureCanvasAgg(canvas.figure).get_renderer()
        boxes = [
            text.get_window_extent(renderer) for text in canvas.axes.texts if text.get_text().startswith("setting")
        ]
    assert len(boxes) > 3
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
