"""A sweep: the same command with several words, one process a job, so that no job's end is another's.

    python train.py -m name=ablation prior=normal,diffusion seed=0,1

makes the runs `ablation/prior-normal_seed-0`, ..., named by the words that the sweep gives several values, in letters that
neither a shell nor Hydra reads as more than letters; `runs/ablation/sweep.json` holds how each ended, and the same command goes
on: finished jobs are left alone, stopped ones continue, failed ones are tried again. Hydra's own launcher runs all jobs in one
process, which a job that is killed for memory takes with it, and the first error ends the sweep without a word of the others.
Which jobs there are is Hydra's to say (`ldm.command.launcher`); what follows their end is in `ldm.command.conclusion`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from ldm.command.board import Board, Row
from ldm.command.grammar import quoted
from ldm.command.job_name import job_name, key_of
from ldm.command.processes import Processes
from ldm.files import write_json
from ldm.run.directory import finished_as
from ldm.run.signals import FAILED, FINISHED, PREEMPTED, PRUNED

log = logging.getLogger(__name__)


def sweep(
    jobs: Sequence[Sequence[str]],
    board: Board,
    command: Sequence[str],
    common: Collection[str] = (),
    shares: Sequence[Mapping[str, str]] = ({},),
    first: int = 0,
    total: int | None = None,
    console: Console | None = None,
) -> list[Row]:
    """Run each job that is not finished.

    Arguments:
        jobs: the words of each, as on the command line; `name=` is the sweep's.
        board: the table that they are added to, with the sweep's name and place.
        command: what is run with a job's words, as `python train.py`.
        common: the keys of words that all jobs of the sweep share.
        shares: of the machine, in variables of the environment; as many processes at once.
        first: the number of the first job, where others came before.
        total: jobs of the whole sweep; None if these are all.
        console: on which the table is shown while jobs run, where it is a terminal.
    Returns:
        Of each job that was begun, in their order; after a stop no other is begun.
    """
    folder, total = board.folder, total or first + len(jobs)
    file = folder / "sweep.json"
    done = {row["run"]: row for row in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[int, Row] = {}
    writing = threading.Lock()
    console = console or Console()
    processes = Processes(command, shares, heard=not console.is_terminal)

    def one(place: int, words: list[str]) -> None:
        run = f"{board.name}/{job_name(words, common)}"
        path, number = board.runs / run, first + place
        row = {"asked": ""} | done.get(run, {})
        stands = row.get("code") == FINISHED and row.get("words") == words and finished_as(path) == row["asked"]
        if not stands:
            if processes.stopped:
                return
            log.info("job %d of %d: %s", number + 1, total, run.removeprefix(f"{board.name}/"))
            board.begin(run)
            given = [word for word in words if key_of(word) != "name"]
            ended = processes.run(number, [*given, f"name={quoted(run)}", f"hydra.job.num={number}"])
            row = {"run": run, "words": words, "status": ended.status, "code": ended.code, "seconds": ended.seconds}
            row |= {} if ended.error is None else {"error": ended.error}
            row |= {"asked": finished_as(path)}
        board.end(row)
        with writing:
            rows[place] = row
            there = [rows[each] for each in sorted(rows)]
            write_json(file, there + [done[key] for key in done.keys() - {each["run"] for each in there}])

    with board.shown(console), processes.signals(), ThreadPoolExecutor(len(shares)) as pool:
        for job in [pool.submit(one, place, list(words)) for place, words in enumerate(jobs)]:
            job.result()
    return [rows[each] for each in sorted(rows)]


def ending(rows: Sequence[Row], jobs: int) -> int:
    """The exit code of a sweep of so many jobs; of those that were not begun there is no row."""
    codes = {row["code"] for row in rows}
    if len(rows) < jobs or PREEMPTED in codes:
        return PREEMPTED
    return FINISHED if codes <= {FINISHED, PRUNED} else FAILED
