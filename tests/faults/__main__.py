"""The long version: python -m tests.faults --kills 100

Does to hundreds of tiny runs what a week on shared machines does to one, and the same to plain Lightning, and writes the
table to experiments/faults/README.md between its two marks.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning
import torch

from tests.faults import damage, kills, places, plain, ranks, together
from tests.faults.runs import Case, timed
from tests.faults.zygote import ROOT, Zygote

PAGE = ROOT / "experiments" / "faults" / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


Work = Callable[[Case], None]


def ours(zygote: Zygote, folder: Path, count: int, dice: random.Random) -> Iterator[tuple[str, Work]]:
    for i, (stage, workers) in enumerate(itertools.product(("first", "second"), (0, 2))):
        share = (count + i) // 4
        yield (
            f"R1: kill -9 at a random moment, {stage} stage, {workers} workers: bit-exact",
            lambda case, s=stage, w=workers, n=share: kills.kills(zygote, folder, case, s, w, n, dice),
        )
    deaths = list(itertools.product(("raise", "kill", "freeze"), (0, 1)))
    plans = [[(2, 0), (1, 2), (2, 4)], [(1, 0), (2, 2), (1, 4)], [(1, 0), (1, 2), (1, 4)]]
    yield from {
        "R2: kill -9 inside a save, $TMPDIR elsewhere: whole": lambda c: kills.writes(zygote, folder, c, 200, dice),
        "R3: no room for a file; room again": lambda c: kills.full_disks(zygote, folder, c, 10),
        "R4: a bit of a checkpoint flipped: noticed": lambda c: damage.flips(folder, c, 200, dice),
        "R4: a checkpoint cut short: noticed": lambda c: damage.cuts(folder, c, 50, dice),
        "2 ranks: weights equal, and those of 1 rank to 1e-5": lambda c: ranks.one_run(zygote, folder, c),
        "R5: signals, 2 ranks: stopped together, bit-exact": lambda c: ranks.signals(
            zygote, folder, c, ranks.all_signals()
        ),
        "R6: one run preempted 20 times: bit-exact": lambda c: kills.preemptions(zygote, folder, c, 20, dice),
        "R7: a rank fails, is killed, freezes: the other names it": lambda c: ranks.deaths(zygote, folder, c, deaths),
        "R8: sets of 1, 7, 10, 33 items, 2 ranks": lambda c: ranks.sizes(zygote, folder, c, [1, 7, 10, 33]),
        "R9: other ranks and workers on the way": lambda c: ranks.elastic(zygote, folder, c, plans),
        "R19: 8 runs started at once": lambda c: together.same_second(zygote, folder, c, 8),
        "R23: 3 runs want one first stage, its maker is killed": lambda c: together.one_first_stage(zygote, folder, c),
        "R23: kill -9 while encoding: the same cache": lambda c: together.caches(zygote, folder, c, 10, dice),
        "R24: a data worker killed: saved, told, bit-exact": lambda c: places.dead_workers(zygote, folder, c, 5),
        "R24: the data vanish: saved, told": lambda c: places.vanished_data(zygote, folder, c),
        "R25: odd names, relative, moved, clock, host": lambda c: places.odd_places(zygote, folder, c),
        "R13: NaN on one of 2 ranks": lambda c: ranks.poisons(zygote, folder, c, ["loss", "gradient", "average"]),
    }.items()


def theirs(zygote: Zygote, folder: Path, count: int, dice: random.Random) -> Iterator[tuple[str, Work]]:
    yield from {
        "R1: kill -9 at a random moment: bit-exact": lambda c: plain.kills(zygote, folder, c, max(2, count // 5), dice),
        "R4: a bit of a checkpoint flipped: noticed": lambda c: plain.damage(zygote, folder, c, 50, dice),
        "R5: signals: saved, and an exit code that says so": lambda c: plain.signals(zygote, folder, c),
        "R13: NaN in the loss: weights finite": lambda c: plain.poison(zygote, folder, c),
    }.items()


def table(title: str, cases: list[Case]) -> str:
    lines = [f"| {title} | cases | passed | seconds |", "| --- | --- | --- | --- |"]
    lines += [f"| {case.name} | {case.cases} | {case.passed} | {case.seconds:.0f} |" for case in cases]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="random kills over both stages, with 0 and 2 workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    wanted = parser.parse_args()
    folder, dice, done = Path(tempfile.mkdtemp()), random.Random(wanted.seed), {}
    with Zygote(folder / "jobs") as zygote:
        for title, all_ in (("`ldm`", ours), ("plain Lightning", theirs)):
            done[title] = []
            for name, work in all_(zygote, folder / "runs", wanted.kills, dice):
                case = timed(name, work)
                done[title].append(case)
                shutil.rmtree(folder / "runs", ignore_errors=True)
                print(f"{title}: {name}: {case.passed} of {case.cases}, {case.seconds:.0f} s", flush=True)
                print(*case.wrong[:3], sep="\n", end="\n" * bool(case.wrong), flush=True)
    shutil.rmtree(folder)
    page = "\n\n".join(table(title, cases) for title, cases in done.items())
    versions = f"torch {torch.__version__.partition('+')[0]}, lightning {lightning.__version__}"
    page += f"\n\n{versions}; `python -m tests.faults --kills {wanted.kills} --write`"
    print(page)
    if wanted.write:
        text = PAGE.read_text(encoding="utf-8")
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n{page}\n{END}{tail}", encoding="utf-8")
    return int(any(case.passed < case.cases for case in done["`ldm`"]))


if __name__ == "__main__":
    raise SystemExit(main())
