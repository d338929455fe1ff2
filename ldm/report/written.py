"""A report of many runs as files: the page, and the same tables as Markdown, LaTeX and CSV, with the verdicts as JSON.

    report.html     a page that needs no other file
    report.md       the tables and sentences
    report.tex      the tables, for booktabs
    report.csv      a line for each setting and number
    report.json     the verdicts, with every difference and its interval

Each is there as a whole, or as it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm.files import write_json, write_text
from ldm.report import numbers, verdict
from ldm.report.overview import html
from ldm.report.several import LEGEND, Several
from ldm.report.table import tex

FILES = ("report.html", "report.md", "report.tex", "report.csv", "report.json")


def write(found: Several, folder: Path) -> Path:
    """Write all files into a folder, each whole or not at all; the page."""
    write_text(folder / "report.html", html(found))
    write_text(folder / "report.md", markdown(found))
    write_text(folder / "report.tex", latex(found))
    write_text(folder / "report.csv", numbers.every(found.comparison).csv())
    facts = {"runs": [str(run.path) for run in found.collection.runs], "left_out": dict(found.collection.left_out)}
    write_json(folder / "report.json", facts | verdict.facts(found.comparison, found.pair) | {"remarks": found.remarks})
    return folder / "report.html"


def markdown(found: Several) -> str:
    """The report as Markdown."""
    parts = [f"# {found.title}\n"]
    parts += [f"## Search\n\n{each.markdown()}" for each in found.collection.searches]
    parts += [_bullets(found.pair_verdicts or found.verdicts)] if found.verdicts or found.pair_verdicts else []
    parts += [f"## {part}\n\n{table.markdown()}" for part, table in found.tables.items()]
    parts += [f"{LEGEND}\n"] if found.tables else []
    parts += [f"## All verdicts\n\n{_bullets(found.verdicts)}"] if found.pair_verdicts and found.verdicts else []
    parts += [f"## Left out, and not compared\n\n{_bullets(found.remarks)}"] if found.remarks else []
    configs = numbers.configs(found.settings).markdown()
    parts += [f"## What differs in the configs\n\n{configs}"] if configs else []
    return "\n".join(parts)


def latex(found: Several) -> str:
    """The tables, each in an environment of its own, for a document that uses booktabs."""
    lead = "% written by ldm report; needs \\usepackage{booktabs}\n"
    tables = [
        f"\\begin{{table}}\n\\centering\n\\caption{{{tex(part)}. {tex(LEGEND)}}}\n{table.latex()}\\end{{table}}\n"
        for part, table in found.tables.items()
    ]
    return lead + "\n".join(tables)


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"- {' '.join(line.split())}\n" for line in lines)
