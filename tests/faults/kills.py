"""R1, R2, R3, R6, R23: killed at any moment, a run goes on to the bit; a checkpoint is whole or not there."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from ldm.run.checkpoint import Checkpoints, DamagedCheckpoint
from tests.faults.runs import Case, config, difference, result
from tests.faults.zygote import Zygote
from tests.runs import equal


def kills(zygote: Zygote, folder: Path, case: Case, stage: str, workers: int, count: int, dice: random.Random) -> None:
    """kill -9 after a random time and the same command again, until it is through; then all is as if undisturbed."""
    start = time.monotonic()
    assert zygote.start("train", config(folder / "whole", stage, workers=workers)).wait() == 0
    length, wanted = time.monotonic() - start, result(folder / "whole")
    done = 0
    while done < count:
        place = folder / f"kill-{done}"
        chosen, hits = config(place, stage, workers=workers), 0
        while True:
            job = zygote.start("train", chosen)
            if done + hits < count and _ends_after(job, dice.uniform(0, length), signal.SIGKILL):
                hits += 1
                continue
            code = job.wait()
            break
        wrong = f"exit code {code}: {job.said()[-500:]}" if code else difference(result(place), wanted)
        if hits:
            case.count(not wrong, f"{stage}, {workers} workers, after {hits} kills: {wrong}", hits)
        done += hits
        shutil.rmtree(place)
    shutil.rmtree(folder)


def _ends_after(job, seconds: float, number: int) -> bool:
    """Whether the job still ran after so long, and was sent the signal."""
    deadline = time.monotonic() + seconds
    while job.running and time.monotonic() < deadline:
        time.sleep(0.005)
    if not job.running:
        return False
    job.send(number)
    job.wait()
    return True


def preemptions(zygote: Zygote, folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """One run asked to stop again and again, and started again: no update is lost, the disk does not fill."""
    steps = 20 * count
    assert zygote.start("train", config(folder / "whole", "second", steps=steps)).wait() == 0
    wanted, place, hits = result(folder / "whole"), folder / "cut", 0
    chosen = config(place, "second", steps=steps)
    checkpoints = Checkpoints(place / "runs" / "run" / "checkpoints" / "second")
    while True:
        before = max(checkpoints.steps(), default=0)
        job = zygote.start("train", chosen)
        if hits < count and _ends_after(job, dice.uniform(0.5, 1.5), signal.SIGTERM) and job.wait() != 0:
            hits += 1
            kept = checkpoints.steps()
            well = job.wait() == 75 and max(kept, default=0) >= before and len(kept) <= 3
            case.count(well, f"exit code {job.wait()}, checkpoints {kept}")
            continue
        code = job.wait()
        break
    wrong = f"exit code {code}: {job.said()[-500:]}" if code else difference(result(place), wanted)
    case.count(not wrong, wrong)
    shutil.rmtree(folder)


def writes(zygote: Zygote, folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """kill -9 in the middle of saving, $TMPDIR on another device: the newest that `latest` named is there, whole."""
    kept, reached = Checkpoints(folder / "kept"), 0
    for _ in range(count):
        job = zygote.start("save", str(kept.folder), 0.004, environment={"TMPDIR": "/dev/shm"})
        time.sleep(dice.uniform(0.02, 0.25))
        job.send(signal.SIGKILL)
        job.wait()
        latest = kept.folder / "latest"
        promised = int(latest.read_text().removeprefix("step-")) if latest.exists() else 0
        try:
            found = kept.load()
        except DamagedCheckpoint as error:
            case.count(False, str(error))
            continue
        step = 0 if found is None else found[0]
        whole = found is None or all(set(w.tolist()) == {float(step)} for w in found[1]["weights"].values())
        left = [each.name for each in kept.folder.glob("*tmp")] if kept.folder.exists() else []
        case.count(whole and step >= max(promised, reached) and not left, f"{step} of {promised}, left {left}")
        reached = step
    assert reached > 0, "not one checkpoint was written: the kills came too early"


def full_disks(zygote: Zygote, folder: Path, case: Case, count: int) -> None:
    """No room for the next file: the run ends with 1 and names it, the checkpoint before is whole, and it goes on later."""
    assert zygote.start("train", config(folder / "whole", "second")).wait() == 0
    wanted = result(folder / "whole")
    for i in range(count):
        place = folder / str(i)
        chosen, kept = config(place, "second"), Checkpoints(place / "runs" / "run" / "checkpoints" / "second")
        job = zygote.start("train", chosen)
        while job.running and not (kept.folder / "latest").exists():
            time.sleep(0.002)
        job.send(signal.SIGKILL)
        job.wait()
        before, job = kept.load(), zygote.start("limited", chosen, 0.02 + 0.01 * i)
        code, said = job.wait(), job.said()
        named = str(place / "runs" / "run") in said and "OSError" in said and "Traceback" not in said
        case.count(code == 1 and named and equal(kept.load(), before), f"exit code {code}: {said[-300:]}")
        code = zygote.start("train", chosen).wait()
        case.count(code == 0 and not difference(result(place), wanted), f"exit code {code} with room again")
        shutil.rmtree(place)
