"""`report.html`: settings, numbers, curves and images of a run, on one page that needs no other file.

It is made from the files of the run directory only, so it can be written at any time, also for a run that is not finished.
What is not there is left out.

    run.json           name, experiment, command, date, status, error, device, code_version, plugins, seed, data; seconds
                       and parameters by part
    records.jsonl      see `ldm.run.record`
    metrics.jsonl      a line a log step: stage, step, images, seconds and numbers by name
    samples/           grids with a JSON file each, see `ldm.callback.image_grid`
    bad_samples.jsonl  a line for each image or caption that was refused: reason
    config.yaml        as it is
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ldm.files import write_text
from ldm.report.chart import Line, line_chart
from ldm.report.curve import SPEED, curves, named
from ldm.report.gallery import development, gallery, pictures
from ldm.report.page import facts, folded, page, section
from ldm.report.quantity import quantity
from ldm.report.reading import lines as read_lines
from ldm.report.table import Cell, Head, Table
from ldm.report.words import count, duration, rounded
from ldm.run.record import MUST_AGREE, Record, current, read

_STAGES = {"first": "First stage", "second": "Second stage"}
_ASIDE = re.compile(r"\b(rate|lr|skipped)\b|grad")
_STATES = {
    "training": "This run is under way, or was killed; what it has left is below.",
    "stopped": "This run was stopped with everything saved; the same command goes on.",
    "failed": "This run failed; what it has left is below.",
    "diverged": "This run diverged; what it has left is below.",
}
_BAD = ("failed", "diverged")
_HOW = ("split", "weights", "drawn", "evaluations", "kind")
_WORDS = {"split": "{} split", "weights": "weights {}", "evaluations": "{} network evaluations a sample"}


def write(directory: Path) -> Path:
    """Write the `report.html` of a run directory, completely or not at all, and return its path."""
    run = json.loads((directory / "run.json").read_text("utf-8")) if (directory / "run.json").is_file() else {}
    name = run.get("name") or directory.resolve().name
    path = directory / "report.html"
    write_text(path, page(name, "\n".join(_sections(directory, name, run))))
    return path


def _sections(directory: Path, name: str, run: Mapping[str, Any]) -> list[str]:
    metrics = [*read_lines(directory / "metrics.jsonl")]
    grids = pictures(directory / "samples")
    samples = [grid for grid in grids if grid.kind == "samples"]
    rebuilt = [grid for grid in grids if grid.kind == "reconstructions"]
    config = directory / "config.yaml"
    text = escape(config.read_text("utf-8")) if config.is_file() else ""
    return [
        _head(name, run),
        section(
            "Numbers", _numbers(read(directory / "records.jsonl")) or ("<p>Nothing was measured.</p>" if run else "")
        ),
        section("Samples", gallery(samples[-1]) if samples else ""),
        section("How the samples came about", development(samples)),
        section("Reconstructions", gallery(rebuilt[-1], 16) if rebuilt else ""),
        *(section(f"{title}: curves", _curves(metrics, stage)) for stage, title in _STAGES.items()),
        section("Time", _time(run, metrics)),
        section("Data", _data(run, [*read_lines(directory / "bad_samples.jsonl")])),
        section("Config", folded("config.yaml", f"<pre>{text}</pre>") if text else ""),
        f"<footer>{escape(name)}, written by ldm from the run directory. Numbers with their full provenance are in "
        "records.jsonl.</footer>",
    ]


def _head(name: str, run: Mapping[str, Any]) -> str:
    lead = ", ".join(str(run[key]) for key in ("experiment", "status") if run.get(key))
    parameters = ", ".join(f"{count(float(n))} {part}" for part, n in run.get("parameters", {}).items())
    date = str(run.get("date", "")).replace("T", " ")[:16]
    pairs = {
        "Date": date,
        "Device": run.get("device"),
        "Code": run.get("code_version"),
        "Plugins": ", ".join(f"{name} {version or ''}".strip() for name, version in run.get("plugins", {}).items()),
        "Seed": None if run.get("seed") is None else str(run["seed"]),
        "Begun from": run.get("begun_from"),
        "Data": run.get("data"),
        "Parameters": parameters,
    }
    command = f"<pre>{escape(run['command'])}</pre>" if run.get("command") else ""
    top = f'<h1>{escape(name)}</h1><p class="lead">{escape(lead)}</p>{_state(run)}'
    return f"<header>{top}{command}{facts(pairs)}</header>"


def _state(run: Mapping[str, Any]) -> str:
    """A note for a run that is not finished, and the error that ended it."""
    status, error = str(run.get("status", "")), str(run.get("error") or "")
    mark = ' class="bad"' if status in _BAD else ""
    said = f"<p{mark}>{_STATES[status]}</p>" if status in _STATES else ""
    return said + (f'<pre class="bad error">{escape(error)}</pre>' if error else "")


def _numbers(records: Sequence[Record]) -> str:
    """The newest value of each metric. Those of earlier weights, before more steps or other settings, are folded away."""
    latest: dict[tuple, Record] = {}
    for record in records:
        key = (record.config, *(getattr(record, name) for name in MUST_AGREE), _how(record))
        latest.pop(key, None)
        latest[key] = record
    now = current([*latest.values()])
    before = [record for record in latest.values() if record not in now]
    return _table(now) + folded("Of earlier weights", _table(before))


def _table(records: Sequence[Record]) -> str:
    """Tables of numbers, one for each way in which they were measured, with a line that says it."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_how(record), []).append(record)
    heads = (Head("Metric", numeric=False), Head("Value"), Head("Standard error"), Head("n"))
    tables = {how: Table(heads, [_number(record) for record in group]) for how, group in groups.items()}
    return "".join(
        (f'<p class="quiet how">{escape(how)}</p>' if how else "") + each.html() for how, each in tables.items()
    )


def _number(record: Record) -> list[Cell]:
    known = quantity(record.metric)
    value, error = rounded(record.value, record.standard_error)
    if known.part == "Cost" and not error:
        value = count(record.value)
    n = "" if record.n in (None, 1) else f"{record.n:,}"
    return [Cell(known.title), Cell(value, best=True), Cell(f"± {error}" if error else "", quiet=True), Cell(n)]


def _how(record: Record) -> str:
    """How a number came about: the part of the data, the weights, and all that is said of the samples."""
    words = []
    for name in _HOW:
        value = getattr(record, name)
        if name == "drawn":
            own = dict(value or {})
            words += [own.pop("prior")] if "prior" in own else []
            words += [f"{key} {_plain(each)}" for key, each in own.items()]
        elif value is not None:
            words.append(_WORDS.get(name, "{}").format(_plain(value)))
    return ", ".join(words)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _curves(lines: Sequence[dict], stage: str) -> str:
    """A chart for each quantity, with training and validation together. Learning rates and gradients are folded away."""
    quantities: dict[str, list[Line]] = {}
    for name, points in curves(lines, stage).items():
        if name not in SPEED:
            base, kind = named(name)
            label = ("training", "validation", "averaged")[kind]
            quantities.setdefault(base, []).append(Line(label, points, "abc"[kind]))
    order = sorted(quantities, key=lambda name: name != "loss")
    charts = {name: line_chart(name, sorted(quantities[name], key=lambda line: line.stroke)) for name in order}
    shown = "".join(chart for name, chart in charts.items() if not _ASIDE.search(name))
    rest = "".join(chart for name, chart in charts.items() if _ASIDE.search(name))
    other = folded("Rates and gradients", f'<div class="charts">{rest}</div>') if rest else ""
    return (f'<div class="charts">{shown}</div>' if shown else "") + other


def _time(run: Mapping[str, Any], lines: Sequence[dict]) -> str:
    times = facts(
        {name.capitalize(): duration(float(value)) for name, value in run.get("seconds", {}).items() if value}
    )
    charts = []
    for stage, title in _STAGES.items():
        for name, label in zip(SPEED, ("images per second", "share of time waiting for data"), strict=True):
            points = curves(lines, stage).get(name)
            charts.append(line_chart(f"{title}, {label}", [Line("", points)], from_zero=True) if points else "")
    return times + (f'<div class="charts" style="margin-top:1.6rem">{"".join(charts)}</div>' if any(charts) else "")


def _data(run: Mapping[str, Any], bad: Sequence[dict]) -> str:
    """How many images and captions were refused, by reason."""
    if not bad:
        return "<p>No image or caption was refused.</p>" if run or bad else ""
    rows = Counter(str(line.get("reason", "no reason given")) for line in bad).most_common(20)
    body = "".join(f'<tr><td>{escape(reason)}</td><td class="number">{count:,}</td></tr>' for reason, count in rows)
    head = '<tr><th>Reason</th><th class="number">Refused</th></tr>'
    lead = f'<p><span class="bad">{len(bad):,} refused</span>; each is listed in bad_samples.jsonl.</p>'
    return f'{lead}<div class="wide"><table>{head}{body}</table></div>'
