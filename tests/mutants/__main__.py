"""A bench of single faults: python -m tests.mutants

Puts each fault of the list, one at a time, into a copy of the tree and runs the tests that are to notice it.

    python -m tests.mutants --area loss --area prior      some areas
    python -m tests.mutants --only heun                   faults whose file, old or new text holds a word
    python -m tests.mutants --check                       only whether every fault still applies
    python -m tests.mutants --write                       all, into the table of experiments/faults/mutants.md

Exit code 1 where fewer than 95 % are noticed, an area has less than 90 %, or a fault is a bad one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.areas import AREAS
from tests.mutants.bench import Bench, Outcome
from tests.mutants.fault import Fault, stale
from tests.mutants.table import Area, write

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "experiments" / "faults" / "mutants.md"


def chosen(areas: list[str] | None, only: str | None) -> dict[str, list[Fault]]:
    found = {name: faults for name, faults in AREAS.items() if areas is None or name in areas}
    if only is not None:
        found = {name: [fault for fault in faults if only in str(fault)] for name, faults in found.items()}
    return {name: faults for name, faults in found.items() if faults}


def run(bench: Bench, name: str, faults: list[Fault]) -> Area:
    """What came of an area's faults, told as it comes."""
    start, outcomes = time.monotonic(), []

    def told(fault: Fault, outcome: Outcome) -> None:
        outcomes.append((fault, outcome))
        if outcome.verdict != "noticed":
            print(f"{name}: {outcome.verdict} ({outcome.seconds:.0f} s): {fault} {outcome.by}", flush=True)

    bench.run(faults, told)
    unsound = bench.unsound(
        [outcome.by for _, outcome in outcomes if "::" in outcome.by and outcome.verdict == "noticed"]
    )
    for i, (fault, outcome) in enumerate(outcomes):
        if outcome.by in unsound:
            outcomes[i] = fault, Outcome("broken", f"{outcome.by} fails without it", outcome.seconds)
            print(f"{name}: broken: {fault}: {outcome.by} fails without it", flush=True)
    area = Area.of(name, outcomes, time.monotonic() - start)
    print(f"{name}: {area.noticed} of {area.faults} noticed, {area.seconds:.0f} s", flush=True)
    return area


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--area", action="append", choices=list(AREAS), help="may be given several times")
    parser.add_argument("--only", help="faults that hold this text")
    parser.add_argument("--check", action="store_true", help="only whether every fault still applies")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for the tests of one fault")
    parser.add_argument("--write", action="store_true", help=f"the rows of these areas into {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args()
    areas = chosen(asked.area, asked.only)
    wrong = stale([fault for faults in areas.values() for fault in faults], ROOT)
    if wrong:
        print(f"{len(wrong)} faults do not apply any more; bring them up to date in tests/mutants:", *wrong, sep="\n  ")
        return 1
    if asked.check:
        print(f"{sum(map(len, areas.values()))} faults apply")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        bench = Bench(ROOT, folder, asked.workers, asked.limit)
        found = [run(bench, name, faults) for name, faults in areas.items()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    noticed, faults = sum(area.noticed for area in found), sum(area.faults for area in found)
    print(f"{noticed} of {faults} noticed, {100 * noticed / faults:.1f} %, {sum(a.seconds for a in found):.0f} s")
    if asked.write:
        write(PAGE, found)
    good = noticed >= 0.95 * faults and all(area.noticed >= 0.9 * area.faults for area in found)
    return int(not good or any(area.broken for area in found))


if __name__ == "__main__":
    sys.exit(main())
