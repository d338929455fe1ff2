"""The table of the bench: a row an area, which a later run of that area replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.bench import Outcome
from tests.mutants.fault import Fault

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
_HEAD = "| area | faults | noticed | share | seconds | not noticed |\n| --- | --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Area:
    """
    Fields:
        faults, noticed: how many; those that ran into the time limit count as noticed, broken ones not at all.
        seconds: that they took.
        survivors: those that no test noticed.
        broken: those of which nothing follows, and why.
    """

    name: str
    faults: int
    noticed: int
    seconds: float
    survivors: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, outcomes: Sequence[tuple[Fault, Outcome]], seconds: float) -> Area:
        told: dict[str, list[str]] = {"noticed": [], "survived": [], "timeout": [], "broken": []}
        for fault, outcome in outcomes:
            told[outcome.verdict].append(str(fault))
        noticed = len(told["noticed"]) + len(told["timeout"])
        survived = tuple(told["survived"])
        return cls(name, noticed + len(survived), noticed, seconds, survived, tuple(told["broken"]))

    def row(self) -> str:
        named = "; ".join(f"`{each}`" for each in self.survivors).replace("|", "\\|")
        share = 100 * self.noticed / max(self.faults, 1)
        return f"| {self.name} | {self.faults} | {self.noticed} | {share:.1f} % | {self.seconds:.0f} | {named} |"


def write(page: Path, areas: Sequence[Area]) -> None:
    """Put the areas' rows into the page's table, in place of theirs from before, and add up all rows."""
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    old, tail = rest.split(END)
    rows = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    rows = {name: line for name, line in rows.items() if name not in ("area", "---", "**all**")}
    rows |= {area.name: area.row() for area in areas}
    cells = [[cell.strip() for cell in line.split("|")[2:6]] for line in rows.values()]
    faults, noticed, seconds = (sum(int(each[i]) for each in cells) for i in (0, 1, 3))
    whole = f"| **all** | {faults} | {noticed} | {100 * noticed / max(faults, 1):.1f} % | {seconds} | |"
    page.write_text(
        f"{head}{BEGIN}\n{_HEAD}\n" + "\n".join([*rows.values(), whole]) + f"\n{END}{tail}", encoding="utf-8"
    )
