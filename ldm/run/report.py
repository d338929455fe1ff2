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
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ldm.files import write_text
from ldm.run.chart import Line, line_chart
from ldm.run.gallery import development, gallery, pictures
from ldm.run.page import facts, folded, page, section
from ldm.run.record import MUST_AGREE, Record, current, read

_STAGES = {"first": "First stage", "second": "Second stage"}
_PLACE = ("stage", "step", "images", "seconds", "flops")
_SPEED = ("images_per_second", "wait")
_ASIDE = re.compile(r"\b(rate|lr|skipped)\b|grad")
_STATES = {
    "training": "This run is under way, or was killed; what it has left is below.",
    "stopped": "This run was stopped with everything saved; the same command goes on.",
    "failed": "This run failed; what it has left is below.",
    "diverged": "This run diverged; what it has left is below.",
}
_BAD = ("failed", "diverged")
_NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "fid": "FID", "kid": "KID", "bits_per_dim": "Bits per dimension"}
_FAMILIES = {
    **{"fd_": "Fréchet distance", "kd_": "Kernel distance", "precision_": "Precision", "recall_": "Recall"},
    **{"density_": "Density", "coverage_": "Coverage"},
}
_HOW = ("split", "weights", "drawn", "evaluations", "kind")
_WORDS = {"split": "{} split", "weights": "weights {}", "evaluations": "{} network evaluations a sample"}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file with one object in each line. Incomplete lines, which a crash can leave, are skipped."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def write(directory: Path) -> Path:
    """Write the `report.html` of a run directory, completely or not at all, and return its path."""
    run = json.loads((directory / "run.json").read_text("utf-8")) if (directory / "run.json").is_file() else {}
    name = run.get("name") or directory.resolve().name
    path = directory / "report.html"
    write_text(path, page(name, "\n".join(_sections(directory, name, run))))
    return path


def _sections(directory: Path, name: str, run: Mapping[str, Any]) -> list[str]:
    metrics = read_lines(directory / "metrics.jsonl")
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
        section("Data", _data(run, read_lines(directory / "bad_samples.jsonl"))),
        section("Config", folded("config.yaml", f"<pre>{text}</pre>") if text else ""),
        f"<footer>{escape(name)}, written by ldm from the run directory. Numbers with their full provenance are in "
        "records.jsonl.</footer>",
    ]


def _head(name: str, run: Mapping[str, Any]) -> str:
    lead = ", ".join(str(run[key]) for key in ("experiment", "status") if run.get(key))
    parameters = ", ".join(f"{_count(float(n))} {part}" for part, n in run.get("parameters", {}).items())
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


def _count(n: float) -> str:
    return f"{n / 1e6:.3g} M" if n >= 1e6 else f"{n / 1e3:.3g} k" if n >= 1e3 else f"{n:.0f}"


def _title(metric: str) -> str:
    if metric.startswith("reconstruction_"):
        return f"{_title(metric.removeprefix('reconstruction_'))}, of reconstructions"
    for prefix, title in _FAMILIES.items():
        if metric.startswith(prefix):
            return f"{title}, {metric.removeprefix(prefix)}"
    words = metric.replace("_", " ")
    return _NAMES.get(metric, words[:1].upper() + words[1:])


def rounded(value: float, error: float | None) -> tuple[str, str]:
    """Value and error as text, to the second significant digit of the error; four digits without one."""
    if error is None or not math.isfinite(error) or not math.isfinite(value):
        return f"{value:.4g}", ""
    if error == 0:
        return f"{value:.4g}", "0"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 6:
        return f"{value:.3g}", f"{error:.2g}"
    return f"{value:.{digits}f}", f"{error:.{digits}f}"


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
    """A table of numbers, with a line that says how they were measured wherever this changes."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_how(record), []).append(record)
    names = "".join(f'<th class="number">{name}</th>' for name in ("Value", "Standard error", "n"))
    body = [f"<tr><th>Metric</th>{names}</tr>"]
    for how, group in groups.items():
        body += [f'<tr><td class="how" colspan="4">{escape(how)}</td></tr>'] if how else []
        body += map(_number, group)
    return f'<div class="wide"><table class="numbers">{"".join(body)}</table></div>' if records else ""


def _number(record: Record) -> str:
    value, error = rounded(record.value, record.standard_error)
    n = "" if record.n is None else f"{record.n:,}"
    return (
        f'<tr><td class="name">{escape(_title(record.metric))}</td><td class="number value">{value}</td>'
        f'<td class="number error">{"± " + error if error else ""}</td><td class="number">{n}</td></tr>'
    )


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


def _series(lines: Sequence[dict], stage: str) -> dict[str, list[tuple[float, float]]]:
    """Points (images, value) by name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line.get("stage") == stage:
            for name, value in line.items():
                if name not in _PLACE and isinstance(value, int | float):
                    found.setdefault(name, []).append((float(line.get("images", line.get("step", 0))), float(value)))
    return found


def _curve(name: str) -> tuple[str, int]:
    """The quantity that a name in metrics.jsonl stands for, and 0 for training, 1 for validation, or 2 for validation with
    averaged weights."""
    base = re.sub(r"(^|/)val[ _/]", r"\1", name)
    if base == name:
        return name, 0
    averaged = re.sub(r"[ _/]?\(?averaged?\)?$", "", base)
    return averaged, 1 if averaged == base else 2


def _curves(lines: Sequence[dict], stage: str) -> str:
    """A chart for each quantity, with training and validation together. Learning rates and gradients are folded away."""
    quantities: dict[str, list[Line]] = {}
    for name, points in _series(lines, stage).items():
        if name not in _SPEED:
            base, kind = _curve(name)
            label = ("training", "validation", "averaged")[kind]
            quantities.setdefault(base, []).append(Line(label, points, "abc"[kind]))
    order = sorted(quantities, key=lambda name: name != "loss")
    charts = {name: line_chart(name, sorted(quantities[name], key=lambda line: line.stroke)) for name in order}
    shown = "".join(chart for name, chart in charts.items() if not _ASIDE.search(name))
    rest = "".join(chart for name, chart in charts.items() if _ASIDE.search(name))
    other = folded("Rates and gradients", f'<div class="charts">{rest}</div>') if rest else ""
    return (f'<div class="charts">{shown}</div>' if shown else "") + other


def duration(seconds: float) -> str:
    """A time in seconds as a text: `1 h 02 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.3g} s"


def _time(run: Mapping[str, Any], lines: Sequence[dict]) -> str:
    times = facts(
        {name.capitalize(): duration(float(value)) for name, value in run.get("seconds", {}).items() if value}
    )
    charts = []
    for stage, title in _STAGES.items():
        for name, label in zip(_SPEED, ("images per second", "share of time waiting for data"), strict=True):
            points = _series(lines, stage).get(name)
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
