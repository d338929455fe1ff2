"""One table in four forms."""

import csv
import io

import pytest

from ldm.report.table import Cell, Head, Table, tex
from tests.report.page import Page

EVIL = '<b>50% of a_b & $x$ | "c", {d}'


@pytest.fixture
def table() -> Table:
    heads = [Head("Setting", numeric=False), Head("FD", ("mean", "± seeds")), Head("n")]
    return Table(
        heads,
        [
            [Cell(EVIL), Cell("1.5", best=True), Cell("0.2", quiet=True), Cell("10")],
            [Cell("b"), Cell("1.7", tied=True), Cell(), Cell()],
        ],
    )


def test_html(table):
    html = table.html()
    page = Page(html)
    assert EVIL in page.text and "†" in page.text
    assert '<th class="over" colspan="2">FD</th>' in html and html.count("<tr>") == 4
    assert '<td class="number best">1.5</td>' in html and "b" not in page.tags


def test_markdown(table):
    lines = table.markdown().splitlines()
    assert lines[:2] == ["| Setting | FD | ± seeds | n |", "| --- | ---: | ---: | ---: |"]
    assert (
        lines[2] == '| \\<b\\>50% of a\\_b & $x$ \\| "c", {d} | **1.5** | 0.2 | 10 |'
        and lines[3] == "| b | 1.7† |  |  |"
    )


def test_latex(table):
    text = table.latex()
    assert text.startswith("\\begin{tabular}{lrrr}\n\\toprule\n") and text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"Setting & \multicolumn{2}{c}{FD} & n \\" in text and r"\cmidrule(lr){2-3}" in text
    assert r"\textbf{1.5} & 0.2 & 10 \\" in text and r"b & 1.7$^\dagger$ &  &  \\" in text
    assert (
        tex(EVIL) == r'\textless{}b\textgreater{}50\% of a\_b \& \$x\$ | "c", \{d\}'
        and tex("± é\n†") == r"$\pm$ \'e $^\dagger$"
    )


def test_csv(table):
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["Setting", "FD, mean", "FD, ± seeds", "n"],
        [EVIL, "1.5", "0.2", "10"],
        ["b", "1.7", "", ""],
    ]


def test_a_table_has_as_many_cells_as_columns():
    with pytest.raises(ValueError, match="rows of 1 cells were wanted, one of 2 came"):
        Table([Head("a")], [[Cell("1"), Cell("2")]])
    empty = Table([Head("a")], [])
    assert empty.html() == empty.markdown() == empty.latex() == ""
