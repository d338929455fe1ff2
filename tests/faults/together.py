"""R19, R23: several processes at once, over one directory or one store."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.faults.runs import Case, config
from tests.faults.zygote import Zygote


def same_second(zygote: Zygote, folder: Path, case: Case, count: int) -> None:
    """Started at once: with one name one runs and the others are refused in a line; without, each has its own place."""
    jobs = [zygote.start("train", config(folder, "second", steps=2)) for _ in range(count)]
    codes = [job.wait() for job in jobs]
    refused = [job.said() for job, code in zip(jobs, codes, strict=True) if code]
    clean = all("is being written by another process" in said and "Traceback" not in said for said in refused)
    # One that starts when the first has finished finds nothing to do.
    case.count(0 in codes and set(codes) <= {0, 1} and clean, f"one name: {codes}")
    jobs = [zygote.start("train", config(folder, "second", steps=2, name=None)) for _ in range(count)]
    codes = [job.wait() for job in jobs]
    places = [each for each in (folder / "runs").iterdir() if each.name != "run"]
    case.count(set(codes) == {0} and len(places) == count, f"no name: {codes}, {len(places)} places")


def one_first_stage(zygote: Zygote, folder: Path, case: Case) -> None:
    """Three runs want the same first stage: one trains it; when it is killed another takes over."""

    def run(name: str) -> dict[str, Any]:
        return config(folder, "both", "prior=normal", name=name, steps=150)  # long enough for the others to come

    first = zygote.start("train", run("killed"))
    journal = folder / "runs" / "killed" / "metrics.jsonl"
    while first.running and not journal.exists():
        time.sleep(0.002)
    others = [zygote.start("train", run(name)) for name in ("a", "b")]
    while not all("waiting for it" in other.said() for other in others):
        time.sleep(0.01)
    first.send(signal.SIGKILL)
    codes = [other.wait() for other in others]
    trained = [name for name in ("a", "b") if (folder / "runs" / name / "checkpoints").exists()]
    stored = list((folder / "store" / "autoencoder").glob("*/artifact.json"))
    case.count(
        codes == [0, 0] and len(trained) == 1 == len(stored), f"{codes}, trained in {trained}, stored {len(stored)}"
    )


def caches(zygote: Zygote, folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """Killed while encoding, again and again: the cache is that of an undisturbed run, byte for byte."""

    def chosen(place: Path) -> dict[str, Any]:
        found = config(place, "second", "data.train.count=150", "data.val.count=70", steps=1)
        found["metric"] = {}
        return found

    assert zygote.start("encode", chosen(folder / "whole"), 0.0).wait() == 0
    wanted, hits, place = _hashes(folder / "whole"), 0, folder / "cut"
    while hits < count:
        job = zygote.start("encode", chosen(place), 0.05)
        time.sleep(dice.uniform(0.1, 0.8))
        hits += job.running
        job.send(signal.SIGKILL)
        job.wait()
        if job.running or (hits < count and _hashes(place) == wanted):
            shutil.rmtree(place)  # it was through before the kill; once more
    code = zygote.start("encode", chosen(place), 0.0).wait()
    case.count(code == 0 and _hashes(place) == wanted, f"exit code {code}", count)


def _hashes(place: Path) -> dict[str, str]:
    files = [file for file in (place / "store" / "latents").rglob("*.safetensors") if ".part" not in str(file.parent)]
    return {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
