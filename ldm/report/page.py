"""The HTML page of a report: without requests to other files, for screens, phones and paper, in light and dark mode."""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #22262b; --quiet: #6a7179; --line: #e3e5e8; --soft: #f4f5f6;
  --a: #2f6fb5; --b: #c8662b; --c: #4d8f5b; --d: #8557ad; --e: #b3454f; --f: #23868f; --g: #94720f; --h: #b0568f;
  --bad: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #dfe3e6; --quiet: #949ca4; --line: #2c3136;
  --soft: #1d2125; --a: #74aee8; --b: #e69a62; --c: #7fc590; --d: #b79be6; --e: #f0909a; --f: #6cc6d2; --g: #d9b95a;
  --h: #e295c4; --bad: #ef8a80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 3.5rem 1.25rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 "Source Sans 3", "Segoe UI", system-ui, -apple-system, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 2.1rem; line-height: 1.15; font-weight: 650; letter-spacing: -.02em; margin: 0 0 .35rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; font-weight: 620; letter-spacing: -.01em; margin: 3.2rem 0 .9rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.8rem 0 .6rem; }
p { margin: 0 0 .8rem; max-width: 44rem; }
small, .quiet { color: var(--quiet); font-size: .875rem; font-weight: 400; }
.lead { color: var(--quiet); margin: 0 0 1.6rem; }
.bad { color: var(--bad); }
code, pre { font: .8125rem/1.5 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; }
pre { margin: 0; padding: .8rem 1rem; background: var(--soft); border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre.error { margin-bottom: .8rem; border-left: 3px solid var(--bad); color: var(--ink); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.4rem, 1fr)); gap: .9rem 1.5rem;
  margin: 1.4rem 0 0; }
dt { color: var(--quiet); font-size: .8125rem; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
th, td { padding: .5rem 1.2rem .5rem 0; line-height: 1.5rem; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { text-align: left; font-weight: 500; font-size: .8125rem; line-height: 1.25rem; color: var(--quiet); }
th:last-child, td:last-child { padding-right: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 650; color: var(--ink); } td.error { color: var(--quiet); } td.name { white-space: nowrap; }
p.how { margin: 1.4rem 0 .2rem; } p.verdict { font-size: 1.125rem; max-width: 46rem; } p.legend { margin-top: 1.6rem; }
th.over { text-align: center; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
thead th { vertical-align: bottom; }
tr:has(th.over) th:not([rowspan]) { border-bottom: 0; } tr:has(th.over) th.over { border-bottom: 1px solid var(--line); }
table.numbers { width: auto; min-width: min(36rem, 100%); } sup { color: var(--quiet); line-height: 0; }
td.number sup { display: inline-block; width: 0; text-indent: .1rem; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: var(--paper); }
tr:has(th.over) + tr th:first-child { position: static; }
table.config td, table.runs td { font-size: .875rem; } table.config td:first-child { font-family: ui-monospace, monospace;
  font-size: .8125rem; } table.runs td:last-child { min-width: 16rem; }
ul { margin: 0; padding-left: 1.1rem; max-width: 48rem; } li { margin: 0 0 .45rem; } li::marker { color: var(--quiet); }
dl.commands { display: block; } dl.commands dd { margin: .2rem 0 1rem; }
.switch { margin-bottom: 1.1rem; font-size: .875rem; color: var(--quiet); }
.switched > input { position: absolute; opacity: 0; }
.switched > label { cursor: pointer; font-size: .875rem; color: var(--quiet); margin-right: 1rem; padding-bottom: .15rem; }
.switched > input:checked + label { color: var(--ink); border-bottom: 2px solid var(--a); }
.switched > input:focus-visible + label { outline: 2px solid var(--a); outline-offset: 3px; }
.switched > .panel { display: none; margin-top: 1.2rem; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); gap: 1.1rem .8rem; }
.cells.large { grid-template-columns: repeat(auto-fill, minmax(min(13rem, 44%), 1fr)); }
.cells figure, .strip figure { margin: 0; break-inside: avoid; }
img { display: block; width: 100%; height: auto; border-radius: .25rem; box-shadow: 0 0 0 1px var(--line);
  background: #fff; }
img + img { margin-top: .3rem; }
img.small { image-rendering: pixelated; }
.cells figcaption { margin-top: .4rem; font-size: .8125rem; line-height: 1.35; overflow-wrap: anywhere; }
.strip { display: grid; grid-template-columns: 6.2rem 1fr; gap: .5rem .8rem; align-items: center; }
.strip span { white-space: nowrap; }
.strip div { display: grid; grid-template-columns: repeat(8, 1fr); gap: .4rem; }
.strip div img + img { margin-top: 0; }
.strip.named { grid-template-columns: minmax(6rem, 11rem) 1fr; } .strip.named span { white-space: normal; font-size: .875rem;
  overflow-wrap: anywhere; line-height: 1.3; } .captions small { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.6rem 2rem; }
.chart { margin: 0; break-inside: avoid; max-width: 40rem; }
.chart figcaption { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; font-size: .875rem;
  margin-bottom: .3rem; }
.chart b { font-weight: 600; color: var(--ink); }
.key { color: var(--quiet); margin-left: .9rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: .9rem; height: 2px; margin-right: .4rem;
  vertical-align: .25em;  background: currentColor; }
.key.a::before { background: var(--a); } .key.b::before { background: var(--b); } .key.c::before { background: var(--c); }
.key.d::before { background: var(--d); } .key.e::before { background: var(--e); } .key.f::before { background: var(--f); }
.key.g::before { background: var(--g); } .key.h::before { background: var(--h); }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
details { margin-top: 1.6rem; }
summary { cursor: pointer; color: var(--quiet); } summary:hover { color: var(--ink); }
details[open] > summary { margin-bottom: .9rem; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: .8125rem; }
@media (max-width: 36rem) { body { padding-top: 2rem; } h1 { font-size: 1.6rem; }
  .cells { grid-template-columns: repeat(auto-fill, minmax(5.4rem, 1fr)); }
  .strip, .strip.named { grid-template-columns: 1fr; gap: .2rem; } .strip div { margin-bottom: .8rem; gap: .25rem; }
  .captions small { font-size: .5625rem; }
  dl { grid-template-columns: 1fr 1fr; } th, td { padding-right: .8rem; } td.name { white-space: normal; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #555; --line: #ccc; --soft: #f5f5f5;
  --a: #2f6fb5; --b: #c8662b; --c: #4d8f5b; --d: #8557ad; --e: #b3454f; --f: #23868f; --g: #94720f;
  --h: #b0568f; } html { font-size: 72%; }
  body { padding: 0; max-width: none; } h2 { break-after: avoid; }
  .cells { grid-template-columns: repeat(8, 1fr); } .cells.large { grid-template-columns: repeat(4, 1fr); }
  .charts { grid-template-columns: 1fr 1fr; } @page { margin: 16mm; } }
"""


def page(title: str, body: str) -> str:
    """A complete HTML document with a title and the given body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading with the given parts below it; empty where all parts are empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def facts(pairs: dict[str, str | None]) -> str:
    """A list of names and values; names without a value are left out."""
    items = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items() if v]
    return f"<dl>{''.join(items)}</dl>" if items else ""


def folded(summary: str, content: str) -> str:
    """Content that is shown when its summary is clicked; empty where it is empty."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>" if content else ""


def switched(name: str, lead: str, panels: dict[str, str], first: str) -> str:
    """Panels of which one is shown, chosen by its title, without a script; that of `first`, if it is there, to begin with.

    Arguments:
        name: of the choice, which no other on the page has.
        lead: what stands before the titles.
    """
    chosen = first if first in panels else next(iter(panels))
    style = "".join(f"#{name}-{i}:checked ~ .panel-{i}{{display:block}}" for i in range(len(panels)))
    heads, bodies = [], []
    for i, (title, content) in enumerate(panels.items()):
        mark = " checked" if title == chosen else ""
        heads.append(
            f'<input type="radio" name="{name}" id="{name}-{i}"{mark}><label for="{name}-{i}">{escape(title)}</label>'
        )
        bodies.append(f'<div class="panel panel-{i}">{content}</div>')
    said = f'<span class="switch">{escape(lead)}&ensp;</span>'
    return f'<style>{style}</style><div class="switched">{said}{"".join(heads)}{"".join(bodies)}</div>'
