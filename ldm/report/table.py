"""One table, printed as HTML, Markdown, LaTeX (booktabs) and CSV.

A heading may stand over several columns, as a number over its value and its two errors. What is marked best is bold in all forms
but CSV, and what cannot be told from it has a dagger.
"""

from __future__ import annotations

import csv as reader
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

DAGGER = "†"


@dataclass(frozen=True)
class Cell:
    """A text; `best` and `tied` say how it is marked, `quiet` that it is secondary."""

    text: str = ""
    best: bool = False
    tied: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Head:
    """A heading over one column, or over several that each have a heading of their own.

    Fields:
        below: headings of the columns below it; of one column none.
        numeric: whether the columns are of numbers, which stand at the right.
    """

    title: str
    below: Sequence[str] = ()
    numeric: bool = True

    @property
    def width(self) -> int:
        """The number of columns below it."""
        return max(1, len(self.below))


@dataclass(frozen=True)
class Table:
    """Headings and rows of as many cells as there are columns.

    Fields:
        how: class of the HTML table.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    how: str = field(default="numbers")

    def __post_init__(self) -> None:
        width = sum(head.width for head in self.heads)
        wrong = [len(row) for row in self.rows if len(row) != width]
        if wrong:
            raise ValueError(f"rows of {width} cells were wanted, one of {wrong[0]} came")

    @property
    def _numeric(self) -> list[bool]:
        return [head.numeric for head in self.heads for _ in range(head.width)]

    @property
    def names(self) -> list[str]:
        """A heading for each column by itself."""
        return [f"{head.title}, {each}" if each else head.title for head in self.heads for each in head.below or ("",)]

    def html(self) -> str:
        """A <table> in a box that scrolls sideways; empty without rows."""
        if not self.rows:
            return ""
        two = any(head.below for head in self.heads)
        top = "".join(_head(head, two) for head in self.heads)
        under = "".join(f'<th class="number">{escape(each)}</th>' for head in self.heads for each in head.below)
        lead = f"<tr>{top}</tr>" + (f"<tr>{under}</tr>" if two else "")
        body = "".join(f"<tr>{self._html_row(row)}</tr>" for row in self.rows)
        return f'<div class="wide"><table class="{self.how}"><thead>{lead}</thead><tbody>{body}</tbody></table></div>'

    def _html_row(self, row: Sequence[Cell]) -> str:
        cells = zip(row, self._numeric, strict=True)
        return "".join(_cell(cell, numeric, i == 0) for i, (cell, numeric) in enumerate(cells))

    def markdown(self) -> str:
        """A table of GitHub's Markdown; empty without rows."""
        if not self.rows:
            return ""
        names = [each or head.title for head in self.heads for each in ("", *head.below[1:])]
        lines = [list(map(_escaped, names)), ["---:" if numeric else "---" for numeric in self._numeric]]
        lines += [[_markdown(cell) for cell in row] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """A tabular of booktabs; empty without rows."""
        if not self.rows:
            return ""
        columns = "".join("r" if numeric else "l" for numeric in self._numeric)
        lines = [" & ".join(_spanned(head) for head in self.heads) + r" \\"]
        if any(head.below for head in self.heads):
            lines += [
                _rules(self.heads),
                " & ".join(tex(each) for head in self.heads for each in head.below or ("",)) + r" \\",
            ]
        body = [" & ".join(map(_latex, row)) + r" \\" for row in self.rows]
        inner = "\n".join([r"\toprule", *lines, r"\midrule", *body, r"\bottomrule"])
        return f"\\begin{{tabular}}{{{columns}}}\n{inner}\n\\end{{tabular}}\n"

    def csv(self) -> str:
        """Comma-separated values with a line of headings."""
        out = io.StringIO()
        writer = reader.writer(out, lineterminator="\n")
        writer.writerows([self.names, *([cell.text for cell in row] for row in self.rows)])
        return out.getvalue()


def _head(head: Head, two: bool) -> str:
    kind = "over" if head.below else "number" if head.numeric else ""
    span = f' colspan="{head.width}"' if head.below else ' rowspan="2"' if two else ""
    return f"<th{_class(kind)}{span}>{escape(head.title)}</th>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _cell(cell: Cell, numeric: bool, first: bool) -> str:
    kinds = [
        "number" if numeric else "name" if first else "",
        "best" if cell.best else "",
        "error" if cell.quiet else "",
    ]
    mark = f'<sup title="not told from the best">{DAGGER}</sup>' if cell.tied else ""
    return f"<td{_class(' '.join(filter(None, kinds)))}>{escape(cell.text)}{mark}</td>"


def _markdown(cell: Cell) -> str:
    text = _escaped(cell.text)
    return (f"**{text}**" if cell.best and text else text) + (DAGGER if cell.tied else "")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


_TEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "é": r"\'e"},
    **{
        "×": r"$\times$",
        "−": "$-$",
        "…": r"\dots{}",
        DAGGER: r"$^\dagger$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    },
    **{each: f"\\{each}" for each in "&%$#_{}"},
}


def tex(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def _latex(cell: Cell) -> str:
    text = tex(cell.text)
    return (f"\\textbf{{{text}}}" if cell.best and text else text) + (r"$^\dagger$" if cell.tied else "")


def _spanned(head: Head) -> str:
    return f"\\multicolumn{{{head.width}}}{{c}}{{{tex(head.title)}}}" if head.below else tex(head.title)


def _rules(heads: Sequence[Head]) -> str:
    place, rules = 1, []
    for head in heads:
        if head.below:
            rules.append(f"\\cmidrule(lr){{{place}-{place + head.width - 1}}}")
        place += head.width
    return " ".join(rules)
