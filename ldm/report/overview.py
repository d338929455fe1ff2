"""The page of many runs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ldm.report import numbers
from ldm.report.canvas import STROKES, Dot
from ldm.report.chart import Line, dot_chart, line_chart
from ldm.report.comparison import Comparison
from ldm.report.curve import AXES, PLACE, SPEED, Trace, averaged, named, traces
from ldm.report.gallery import Picture, latest, side_by_side
from ldm.report.page import folded, page, section, switched
from ldm.report.quantity import CHANNELS, Better, Origin, quantity
from ldm.report.reading import Run, lines
from ldm.report.setting import Setting
from ldm.report.several import LEGEND, Several
from ldm.report.words import number

_SHOWN = 6  # sentences before the rest is folded
_PICTURED = 24  # settings whose pictures are shown
_DIFFERENCES = 40  # rows up to which every difference is listed
_OF_LOSS = (
    "prior._target_",
    "prior.parameterization._target_",
    "prior.weighting._target_",
)  # by what a loss is another quantity
_LOSSES = "These priors are trained by different losses, whose curves do not say which is better."


def html(found: Several) -> str:
    """All of it as one page."""
    runs = found.collection.runs
    parts = [
        _head(found),
        *(section("Search", each.html()) for each in found.collection.searches),
        section("What follows", _sentences(found.verdicts[1:])) if not found.pair_verdicts else "",
        section(_pair_title(found), _sentences(found.pair_verdicts[1:], 30)) if found.pair_verdicts else "",
        *(
            folded(part, table.html()) if part == CHANNELS else section(part, table.html())
            for part, table in found.tables.items()
        ),
        f'<p class="quiet legend">{escape(LEGEND)}</p>' if found.tables else "",
        _differences(found),
        section("Every number", _sentences(found.verdicts)) if found.pair_verdicts else "",
        section("Quality against cost", _costs(found)),
        *_curves(found),
        section("Samples", _pictures(found, "samples")),
        section("Reconstructions", _pictures(found, "reconstructions")),
        section("Left out, and not compared", _sentences(found.remarks, 200)),
        section("What differs in the configs", _config(found.settings)),
        section("Runs", numbers.runs_of(found.settings).html(), folded("Their commands", _commands(runs))),
        "<footer>Written by ldm report from the run directories. Numbers with their full provenance are in their records.jsonl; "
        "each difference with its interval is in report.json and report.csv.</footer>",
    ]
    return page(found.title, "\n".join(part for part in parts if part))


def _head(found: Several) -> str:
    states: dict[str, int] = {}
    for run in found.collection.runs:
        states[run.status] = states.get(run.status, 0) + 1
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    out = len(found.collection.left_out)
    lead = said + (f"; {number(out, 'other')} left out" if out else "")
    first = (
        found.pair_verdicts
        or found.verdicts
        or ["There is nothing to compare: no two settings have a number in common."]
    )[0]
    top = f'<h1>{escape(found.title)}</h1><p class="lead">{escape(lead)}</p>'
    return f'<header>{top}<p class="verdict">{escape(first)}</p></header>'


def _pair_title(found: Several) -> str:
    a, b = found.pair
    return f"{found.comparison.rows[a].label} against {found.comparison.rows[b].label}"


def _sentences(said: Sequence[str], most: int = _SHOWN) -> str:
    items = [f"<li>{escape(line)}</li>" for line in said]
    rest = folded(f"{len(items) - most} more", f"<ul>{''.join(items[most:])}</ul>") if len(items) > most else ""
    return f"<ul>{''.join(items[:most])}</ul>{rest}" if items else ""


def _differences(found: Several) -> str:
    if not 2 <= len(found.comparison.rows) <= _DIFFERENCES:
        return ""
    told = []
    for place, column in enumerate(found.comparison.columns):
        table = numbers.differences(found.comparison, place)
        told += [f"<h3>{escape(column.quantity.title)}</h3>{table.html()}"] if len(table.rows) > 1 else []
    return folded("Every difference from the best, with its interval", "".join(told))


# Quality against cost


def _costs(found: Several) -> str:
    comparison, place = found.comparison, found.headline
    if place is None:
        return ""
    column = comparison.columns[place]
    sign = column.quantity.better.value
    way = f"{'lower' if column.quantity.better is Better.LOWER else 'higher'} is better, and to the left is cheaper"
    charts = []
    for cost, each in enumerate(comparison.columns):
        if each.quantity.origin is not Origin.SAMPLED and each.quantity.better is Better.LOWER:
            dots = _dots(comparison, place, cost, sign)
            if len({dot.x for dot in dots}) > 1:
                title = each.quantity.title
                charts.append(dot_chart(column.quantity.title, dots, title[:1].lower() + title[1:], way))
    shown = "".join(charts)
    return f'<div class="charts">{shown}</div>' if shown else ""


def _dots(comparison: Comparison, place: int, cost: int, sign: int) -> list[Dot]:
    known = [(row.label, x, y) for row in comparison.rows if (x := row.summary(cost)) and (y := row.summary(place))]
    return [
        Dot(
            label,
            x.mean,
            y.mean,
            y.deviation or y.error or 0.0,
            not any(
                (v.mean, sign * w.mean) != (x.mean, sign * y.mean)
                and v.mean <= x.mean
                and sign * w.mean >= sign * y.mean
                for _, v, w in known
            ),
        )
        for label, x, y in known
    ]


# Learning curves


def _curves(found: Several) -> list[str]:
    """Sections of curves by stage, each setting averaged over its seeds. Of many settings the best have a colour."""
    rows = [row.setting for row in found.comparison.rows]
    ordered = [*dict.fromkeys([id(setting) for setting in rows]), *(id(setting) for setting in found.settings)]
    by_id = {id(setting): setting for setting in found.settings}
    each = {by_id[i].label: _traces(by_id[i]) for i in dict.fromkeys(ordered)}
    strokes = {label: STROKES[i] if i < len(STROKES) else "" for i, label in enumerate(each)}
    second, first = (_stage(each, strokes, stage) for stage in ("second", "first"))
    note = "" if _of_one_loss(found.settings) else f'<p class="quiet">{_LOSSES}</p>'
    return [section("Curves", f"{note}{second}" if second else "", folded("Of the first stage", first))]


def _of_one_loss(settings: Sequence[Setting]) -> bool:
    """Whether priors are trained by one kind of loss, so that its curves can be compared."""
    return len({tuple(group.runs[0][1].settings.get(key) for key in _OF_LOSS) for group in settings}) < 2


def _traces(setting: Setting) -> list[dict[tuple[str, str], Trace]]:
    found = []
    for _, run in setting.runs:
        every = traces(lines(run.path / "metrics.jsonl"))
        found.append({key: trace for key, trace in every.items() if _is_shown(key[1])})
    return found


def _is_shown(name: str) -> bool:
    """Whether a number of the journal is drawn: losses, and what evaluations in training have measured."""
    base, _ = named(name)
    return name not in (*PLACE, *SPEED) and (base == "loss" or quantity(base).better is not Better.UNKNOWN)


def _stage(each: dict[str, list[dict[tuple[str, str], Trace]]], strokes: dict[str, str], stage: str) -> str:
    names = dict.fromkeys(name for runs in each.values() for run in runs for own, name in run if own == stage)
    kinds = ("", ", validation", ", validation with averaged weights")
    titles = {name: f"{_named(base)}{kinds[kind]}" for name in names for base, kind in [named(name)]}
    panels: dict[str, str] = {}
    for place, unit in enumerate(AXES.values()):
        charts = []
        for name in sorted(names, key=lambda name: (named(name)[0] != "loss", name)):
            drawn = [
                Line(label, band.mean, strokes[label], band.edges)
                for label, runs in reversed(each.items())
                if (band := averaged([_over(run, (stage, name), place) for run in runs])).mean
            ]
            drawn.reverse()
            charts.append(line_chart(titles[name], drawn, unit))
        if any(charts):
            panels[unit] = f'<div class="charts">{"".join(charts)}</div>'
    return switched(f"axis-{stage}", "over", panels, first="images") if panels else ""


def _named(base: str) -> str:
    found = quantity(base)
    return base if found.better is Better.UNKNOWN else found.title


def _over(run: dict[tuple[str, str], Trace], key: tuple[str, str], place: int) -> list[tuple[float, float]]:
    return [(at, value) for places, value in run.get(key, []) if (at := places[place]) is not None]


# Pictures, configs, commands


def _pictures(found: Several, kind: str) -> str:
    """The newest pictures of one run a setting, of a seed that all have if there is one, for the same noise."""
    order = dict.fromkeys([*(row.setting.label for row in found.comparison.rows), *(s.label for s in found.settings)])
    groups = sorted(found.settings, key=lambda setting: [*order].index(setting.label))[:_PICTURED]
    shared = set.intersection(*({key for key, _ in setting.runs} for setting in groups)) if groups else set()
    chosen: list[tuple[str, Picture]] = []
    for setting in groups:
        runs = sorted(setting.runs, key=lambda pair: pair[0] not in shared)
        picture = next((each for _, run in runs if (each := latest(run.path / "samples", kind))), None)
        chosen += [(setting.label, picture)] if picture is not None else []
    if not chosen:
        return ""
    note = "" if shared else '<p class="quiet">The settings have no seed in common, so their noise differs.</p>'
    left = len(found.settings) - _PICTURED
    note += f'<p class="quiet">The first {_PICTURED} settings; {left} others are not shown.</p>' if left > 0 else ""
    return note + side_by_side(chosen)


def _config(groups: Sequence[Setting]) -> str:
    table = numbers.configs(groups)
    if not table.rows:
        return ""
    return table.html() if len(table.rows) <= 12 else folded(f"{len(table.rows)} keys", table.html())


def _commands(runs: Sequence[Run]) -> str:
    told = [
        f"<dt>{escape(run.name)}</dt><dd><pre>{escape(str(run.facts['command']))}</pre></dd>"
        for run in runs
        if run.facts.get("command")
    ]
    return f'<dl class="commands">{"".join(told)}</dl>' if told else ""
