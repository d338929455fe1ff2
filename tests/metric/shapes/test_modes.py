"""Modes that are written into images and counted by hand."""

import math

import pytest
import torch

from ldm.data.shapes import combinations
from ldm.metric.metric import Examples
from ldm.metric.shapes import modes
from ldm.metric.shapes.modes import Modes
from tests.metric.shapes.test_agreement import PerfectReader, begun, written


@pytest.fixture
def perfect(monkeypatch):
    monkeypatch.setattr(modes, "kept_checker", lambda *_: PerfectReader())


def measured(*batches):
    metric = begun(Modes())
    for rows in batches:
        x = written(rows)
        metric.add(Examples(x, x, x, [""] * len(rows), torch.arange(len(rows))))
    return {each.metric: each for each in metric.measure()}


def test_modes_are_counted(perfect):
    """Of five samples three modes of the data, two of them shown once, and one combination that the data do not have."""
    a, b, c = combinations(False)[[0, 1, 700]].tolist()
    strange = combinations(True)[0].tolist()
    found = measured([a, a, b], [c, strange])
    k = len(combinations(False))
    expected = sum((1 - 1 / k) ** i for i in range(5))  # of n draws each is new with this probability
    assert (found["modes"].value, found["modes"].n) == (3, 5)
    assert found["modes"].standard_error == pytest.approx(math.sqrt(2 * (1 - 2 / 5) * 4 / 5))
    assert found["modes_share"].value == pytest.approx(3 / expected, rel=1e-9)
    assert found["modes_strange"].value == pytest.approx(1 / 5)
    assert found["modes_strange"].standard_error == pytest.approx(math.sqrt(0.2 * 0.8 / 5))


def test_the_jackknife_is_what_leaving_each_out_gives(perfect):
    rows = [combinations(False)[i].tolist() for i in (0, 0, 5, 9, 9, 9, 20)]
    without = [len({tuple(r) for j, r in enumerate(rows) if j != i}) for i in range(7)]
    middle = sum(without) / 7
    variance = 6 / 7 * sum((each - middle) ** 2 for each in without)
    assert measured(rows)["modes"].standard_error == pytest.approx(math.sqrt(variance))


def test_draws_of_the_law_itself_show_as_many_as_are_expected(perfect):
    known = combinations(False)
    n = 2000
    found = measured([known[i].tolist() for i in torch.randint(len(known), (n,))])
    assert found["modes_share"].value == pytest.approx(1, abs=0.06)  # the deviation is about .012
    assert found["modes_strange"].value == 0


def test_one_sample_has_no_error_and_none_is_nothing(perfect, caplog):
    assert measured([combinations(False)[0].tolist()])["modes"].standard_error is None
    assert begun(Modes()).measure() == []
    grey = torch.zeros(2, 1, 32, 32)
    metric = begun(Modes(), (1, 32, 32))
    metric.add(Examples(grey, grey, grey, ["", ""], torch.arange(2)))
    assert metric.measure() == [] and "modes is left out" in caplog.text


def test_images_that_are_not_of_shapes_are_refused_before_training():
    """By their captions: without them nothing tells that the images are of shapes."""
    assert Modes.needs == ("caption",)
    Modes().check(["a small red circle at the top left on a white background"])
    with pytest.raises(
        ValueError, match="metric=modes is for the captions of data=shapes: cannot read the caption 'a cat'"
    ):
        Modes().check(["a cat"])
