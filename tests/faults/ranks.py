"""R5, R7, R8, R9, R13 on two gloo ranks: they stop together, end together, and are one run however many there are."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ldm.run.checkpoint import Checkpoints
from tests.faults.runs import Case, config, difference, result, traced
from tests.faults.zygote import Job, Zygote
from tests.runs import rows

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
TARGETS = ("rank 0", "rank 1", "both")
MOMENTS = ("start", "validate", "save")
PATIENCE, TIMEOUT = 30.0, 5.0  # seconds without a sign of life: as a rule, and where one is to be missed


def pair(
    zygote: Zygote,
    chosen: dict[str, Any],
    hooks: dict[str, Any] | None = None,
    ranks: int = 2,
    timeout: float = PATIENCE,
) -> list[Job]:
    """The same run on several ranks, started as torchrun and SLURM do: each a process that knows its number."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    chosen = chosen | {"trainer": chosen["trainer"] | {"devices": ranks}, "rank_timeout": timeout}
    jobs = []
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        own = dict(hooks or {})
        own |= {key: f"{own[key]}-{rank}" for key in ("trace", "digest") if key in own}
        jobs.append(zygote.start("train", chosen, own, environment=environment | {"LOCAL_RANK": str(rank)}))
    return jobs


def ended(jobs: Sequence[Job], seconds: float = 120.0) -> list[int]:
    return [job.wait(seconds) for job in jobs]


def _wait_for(file: Path, jobs: Sequence[Job]) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        if time.monotonic() > deadline or not all(job.running for job in jobs):
            raise AssertionError(f"{file.name} was not reached: {jobs[0].said()[-1500:]}")
        time.sleep(0.002)


def signals(zygote: Zygote, folder: Path, case: Case, cases: Sequence[tuple[int, str, str]]) -> None:
    """A signal to one rank or to all, at a bad moment: all stop after the same update with 75 and go on to the bit."""
    assert ended(pair(zygote, config(folder / "whole", "second"))) == [0, 0]
    wanted = result(folder / "whole")
    for number, target, moment in cases:
        what, place = f"{signal.Signals(number).name} to {target} during {moment}", folder / "cut"
        chosen, mark, trace = config(place, "second"), place / "mark", place / "trace"
        place.mkdir(parents=True)
        jobs = pair(zygote, chosen, {"pause": {"at": moment, "file": str(mark)}, "trace": str(trace)})
        _wait_for(mark, jobs)
        for rank, job in enumerate(jobs):
            if target in (f"rank {rank}", "both"):
                job.send(number, group=target == "both")
        codes = ended(jobs)
        reached = [max(line[0] for line in traced(place / f"trace-{rank}")) + 1 for rank in (0, 1)]
        kept = Checkpoints(place / "runs" / "run" / "checkpoints" / "second").steps()
        stopped = codes == [75, 75] and reached[0] == reached[1] == max(kept) < 20  # a hang would end with another code
        codes_then = ended(pair(zygote, chosen))
        wrong = difference(result(place), wanted) if codes_then == [0, 0] else f"then {codes_then}"
        case.count(stopped and not wrong, f"{what}: {codes}, reached {reached}, kept {kept}; {wrong}")
        shutil.rmtree(place)
    shutil.rmtree(folder)


def all_signals() -> list[tuple[int, str, str]]:
    """Twelve: every signal to every target, and the moments by turns; and each moment once more."""
    moments = itertools.cycle(MOMENTS)
    cases = [(number, target, next(moments)) for number in SIGNALS for target in TARGETS]
    return cases + [(SIGNALS[i], TARGETS[(i + 1) % 3], MOMENTS[(i + 2) % 3]) for i in range(3)]


def deaths(zygote: Zygote, folder: Path, case: Case, cases: Sequence[tuple[str, int]]) -> None:
    """One rank fails, is killed or freezes: the other ends, says which one it was, kills what is frozen, and nothing is left
    running."""
    for how, rank in cases:
        place = folder / f"{how}-{rank}"
        jobs = pair(zygote, config(place, "second"), {"fail": {"how": how, "update": 7, "rank": rank}}, timeout=TIMEOUT)
        other = jobs[1 - rank]
        code = other.wait()
        said = other.said() + jobs[0].said()
        gone = jobs[rank].wait()
        well = code == 1 and f"rank {rank}" in said and gone == (1 if how == "raise" else -signal.SIGKILL)
        case.count(well, f"{how} of rank {rank}: exit codes {code}, {gone}: {other.said()[-400:]}")
        shutil.rmtree(place)


def one_run(zygote: Zygote, folder: Path, case: Case) -> None:
    """Both stages, a critic, sets that do not divide evenly: after 10 updates of each the ranks' weights are the same to
    the bit, and those of one rank to 1e-5; so are the measured numbers."""
    # Steps in which Adam is all but linear in the gradient, so that rounding stays rounding.
    linear = {"eps": 1.0, "lr": 0.1, "weight_decay": 0.0}
    found: dict[int, dict[str, Any]] = {}
    for ranks in (1, 2):
        place = folder / str(ranks)
        chosen = config(place, "both", "loss=kl_gan", "data.val.count=7", steps=10)
        for stage in ("first", "second"):
            chosen[stage]["optimizer"] |= linear
        place.mkdir(parents=True)
        codes = ended(pair(zygote, chosen, {"digest": str(place / "digest")}, ranks))
        digests = {file.read_text() for file in place.glob("digest-*")}
        case.count(
            codes == [0] * ranks and len(digests) == 1, f"{ranks} ranks: {codes}, {len(digests)} different weights"
        )
        found[ranks] = load_file(place / "runs" / "run" / "model" / "raw.safetensors") | {
            f"measured {name}": torch.tensor(value) for name, value, _, _ in result(place)["measured"]
        }
    apart = {
        key: (found[1][key].double() - found[2][key].double()).abs().max().item()
        for key in found[1]
        if found[1][key].numel()
    }
    worst = max((value for key, value in apart.items() if not key.startswith("measured")), default=1.0)
    numbers = {
        key: value
        for key, value in apart.items()
        if key.startswith("measured") and value > 1e-3 * abs(found[1][key].item())
    }
    case.count(worst < 1e-5 and not numbers, f"weights {worst:.1e} apart, numbers {numbers}")
    shutil.rmtree(folder)


def elastic(zygote: Zygote, folder: Path, case: Case, plans: Sequence[Sequence[tuple[int, int]]]) -> None:
    """Stopped and gone on with other (ranks, workers): the same global batches in the same order, losses to 1e-6."""
    assert ended(pair(zygote, config(folder / "one", "second"), {"trace": str(folder / "trace")}, 1)) == [0]
    wanted, batches = rows(folder / "one" / "runs" / "run"), _batches(folder, 1)
    for plan in plans:
        place, seen = folder / "plan", {}
        chosen = config(place, "second")
        for i, (ranks, workers) in enumerate(plan):
            chosen["data"]["workers"] = workers
            hooks: dict[str, Any] = {"trace": str(place / f"trace{i}")}
            last = i == len(plan) - 1
            place.mkdir(parents=True, exist_ok=True)
            jobs = pair(zygote, chosen, hooks, ranks)
            if not last:
                _wait_for(place / f"trace{i}-0", jobs)
                time.sleep(0.15)
                jobs[0].send(signal.SIGTERM)
            codes = ended(jobs)
            if set(codes) != {0 if last else 75}:
                case.count(False, f"{plan}: {codes} {jobs[0].said()[-500:]}")
                break
            seen |= _batches(place, ranks, f"trace{i}")
        else:
            losses = [
                (a["loss"], b["loss"]) for a, b in zip(rows(place / "runs" / "run"), wanted, strict=True) if "loss" in a
            ]
            worst = max(abs(a - b) / abs(b) for a, b in losses)
            case.count(
                seen == batches and worst < 1e-6, f"{plan}: order {seen == batches}, losses differ by {worst:.1e}"
            )
        shutil.rmtree(place)
    shutil.rmtree(folder)


def _batches(folder: Path, ranks: int, name: str = "trace") -> dict[int, list[int]]:
    """update -> the items of its global batch, by row."""
    found: dict[int, dict[int, int]] = {}
    for rank in range(ranks):
        for step, places, items in traced(folder / f"{name}-{rank}"):
            found.setdefault(step, {}).update(zip(places, items, strict=True))
    return {step: [items[row] for row in sorted(items)] for step, items in found.items()}


def sizes(zygote: Zygote, folder: Path, case: Case, counts: Sequence[int]) -> None:
    """A set of any size, smaller than the batch too: as many updates on every rank, each item as often as any other."""
    for count in counts:
        place = folder / str(count)
        place.mkdir(parents=True)
        chosen = config(place, "second")
        chosen["data"]["train"]["count"] = count
        chosen["data"]["batch_size"] = 6
        jobs = pair(zygote, chosen, {"trace": str(place / "trace")})
        codes, traces = ended(jobs), [traced(place / f"trace-{rank}") for rank in (0, 1)]
        order = [item for step, items in sorted(_batches(place, 2).items()) for item in items]
        epochs = [sorted(order[i : i + count]) for i in range(0, len(order) - count + 1, count)]
        fair = len(epochs) > 0 and all(epoch == list(range(count)) for epoch in epochs)
        case.count(codes == [0, 0] and len(traces[0]) == len(traces[1]) == 20 and fair, f"{count} items: {codes}")
        shutil.rmtree(place)


def poisons(zygote: Zygote, folder: Path, case: Case, kinds: Sequence[str]) -> None:
    """A NaN on one rank: no rank takes the update, all stay equal and finite; too many in a row, or in a place where it
    stays, end the run with 3."""
    for what in kinds:
        for updates, code in (([6], 3 if what == "average" else 0), (list(range(4, 20)), 3)):
            place = folder / what
            chosen = config(place, "second")
            chosen["second"]["patience"] = 4
            jobs = pair(
                zygote, chosen, {"poison": {"what": what, "updates": updates, "rank": 0 if what == "average" else 1}}
            )
            codes, run = ended(jobs), place / "runs" / "run"
            skipped = max(row.get("skipped", 0) for row in rows(run))
            found = Checkpoints(run / "checkpoints" / "second").load()  # none, where the first would not be finite
            kept = [] if found is None else _tensors([found[1][key] for key in ("weights", "average")])
            finite = all(value.isfinite().all() for value in kept)
            told = what == "average" or skipped >= min(len(updates), 4)
            # Of a bad average rank 0 knows, which saves it; the other hears from it.
            right = codes == [code, 1 if what == "average" else code]
            case.count(right and finite and told, f"{what} {updates[:3]}: {codes}, {skipped} skipped, {finite}")
            shutil.rmtree(place)


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, dict | list):
        values = state.values() if isinstance(state, dict) else state
        return [tensor for value in values for tensor in _tensors(value)]
    return [state] if isinstance(state, torch.Tensor) and state.is_floating_point() else []
