"""Curves of several seeds, by hand."""

import math
from itertools import pairwise

import pytest

from ldm.report.curve import averaged, curves, traces


def test_the_mean_is_taken_where_all_seeds_have_been():
    """y = x from 0 to 4 and y = x + 2 from 2 to 6: at 2, 3 and 4 the mean is x + 1 and the deviation sqrt 2."""
    band = averaged([[(0.0, 0.0), (2.0, 2.0), (4.0, 4.0)], [(2.0, 4.0), (3.0, 5.0), (6.0, 8.0)]])
    assert band.mean == [(2.0, 3.0), (3.0, 4.0), (4.0, 5.0)] and band.seeds == 2
    for (x, low, high), (_, mean) in zip(band.edges, band.mean, strict=True):
        assert (low, high) == pytest.approx((mean - math.sqrt(2), mean + math.sqrt(2))), x


def test_one_seed_has_no_band_and_none_no_curve():
    assert averaged([[(1.0, 2.0), (2.0, math.nan)]]).mean == [(1.0, 2.0)]
    assert averaged([[(1.0, 2.0)]]).edges == [] and averaged([]).mean == averaged([[]]).mean == []


def test_a_row_without_a_place_has_none():
    rows = [
        {"stage": "second", "step": 1, "images": 4, "loss": 2.0, "on": True, "word": "x"},
        {"stage": "first", "step": 1, "loss": 1.0},
    ]
    assert curves(rows, "second") == {"loss": [(4.0, 2.0)]} and curves(rows, "second", "flops") == {}
    assert curves(rows, "first") == {} and curves(rows, "first", "step") == {"loss": [(1.0, 1.0)]}


def test_a_long_journal_is_thinned_evenly():
    rows = ({"stage": "second", "step": i, "images": i, "loss": float(i)} for i in range(2000))
    points = [value for _, value in traces(rows, 100)["second", "loss"]]
    gaps = {b - a for a, b in pairwise(points)}
    assert 50 <= len(points) < 100 and len(gaps) == 1 and points[-1] > 1960
