"""R24, R25: a data worker is killed, the data vanish, the clock jumps, the directory moves."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.shapes import Shapes
from ldm.run.checkpoint import Checkpoints
from tests.faults.runs import Case, config, difference, result
from tests.faults.zygote import ROOT, Job, Zygote


def _after_some_updates(job: Job, place: Path, updates: int = 7) -> None:
    journal = place / "runs" / "run" / "metrics.jsonl"
    while job.running and not (journal.exists() and journal.read_text().count("\n") >= updates):
        time.sleep(0.002)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _saved_first(place: Path, job: Job, what: str, behind: int = 0) -> str:
    """What is wrong with the way a job ended by an error from its data; empty if nothing.

    Arguments:
        behind: updates that what was kept may be behind the last one.
    """
    code, said = job.wait(), job.said()
    reached = max(json.loads(line)["step"] for line in (place / "runs" / "run" / "metrics.jsonl").open())
    kept = Checkpoints(place / "runs" / "run" / "checkpoints" / "second").steps()
    well = code == 1 and what in said and "Traceback" not in said and max(kept, default=0) >= reached - behind
    return "" if well else f"exit code {code}, reached {reached}, kept {kept}: {said[-600:]}"


def dead_workers(zygote: Zygote, folder: Path, case: Case, count: int) -> None:
    """kill -9 to a data worker: an error that says so, everything saved before, and the same command goes on. The error is raised
    by a signal, at any line: where that is within an update, the last checkpoint is what is whole."""
    assert zygote.start("train", config(folder / "whole", "second", workers=2, steps=60)).wait() == 0
    wanted = result(folder / "whole")
    for i in range(count):
        place = folder / str(i)
        chosen = config(place, "second", workers=2, steps=60)
        job = zygote.start("train", chosen)
        _after_some_updates(job, place)
        Job.send(Job(_children(job.pid)[-1], job.log, {}, None), signal.SIGKILL)
        wrong = _saved_first(place, job, "worker", behind=chosen["second"]["save_every"])
        code = zygote.start("train", chosen).wait()
        case.count(not wrong and code == 0 and not difference(result(place), wanted), f"{wrong}; then exit code {code}")
        shutil.rmtree(place)


def vanished_data(zygote: Zygote, folder: Path, case: Case) -> None:
    """The folder of images goes away in the middle: too many bad items, what was done is saved; it comes back."""
    images = folder / "images"
    images.mkdir(parents=True)
    for i, item in enumerate(Shapes(40, "train")[k] for k in range(40)):
        Image.fromarray(item["image"]).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(item["caption"])

    def chosen(place: Path) -> dict[str, Any]:
        words = ["data=folder", f"data.root={images}", "data.image_shape=[3,32,32]", "data.hold_out=0.2"]
        return config(place, "second", *words, steps=100, cache_latents=False, images=True)

    job = zygote.start("train", chosen(folder / "cut"))
    _after_some_updates(job, folder / "cut")
    images.rename(folder / "elsewhere")
    wrong = _saved_first(folder / "cut", job, "cannot be used")
    (folder / "elsewhere").rename(images)
    case.count(not wrong, wrong)
    code = zygote.start("train", chosen(folder / "cut")).wait()
    case.count(code == 0, f"exit code {code} with the folder back")


def odd_places(zygote: Zygote, folder: Path, case: Case) -> None:
    """Spaces and letters of other alphabets, relative paths, a clock that jumps, a directory that moves, another host's
    mark: the numbers are the same."""
    assert zygote.start("train", config(folder / "whole", "second")).wait() == 0
    wanted = result(folder / "whole")

    def well(place: Path, code: int, what: str) -> None:
        wrong = f"exit code {code}" if code else difference(result(place), wanted)
        case.count(not wrong, f"{what}: {wrong}")

    place = folder / "mit Leerzeichen, Ümläuten & 'Strichen' 雪"
    well(place, zygote.start("train", config(place, "second")).wait(), "name")

    place = folder / "relative"
    place.mkdir()
    chosen = config(place, "second") | {"runs": "runs", "store": "store"}
    well(place, zygote.start("train", chosen, {"folder": str(place)}).wait(), "relative")

    place = folder / "clock"
    well(place, zygote.start("train", config(place, "second"), {"clock": True}).wait(), "clock")

    place = folder / "moved"
    job = zygote.start("train", config(place, "second"))
    _after_some_updates(job, place)
    job.send(signal.SIGKILL)
    job.wait()
    place.rename(folder / "to here")
    well(folder / "to here", zygote.start("train", config(folder / "to here", "second")).wait(), "moved")

    place = folder / "host"
    (place / "runs" / "run").mkdir(parents=True)
    (place / "runs" / "run" / "lock.json").write_text('{"host": "elsewhere", "pid": 1, "since": "2020-01-01"}')
    well(place, zygote.start("train", config(place, "second")).wait(), "another host's mark")


def source_tree(zygote: Zygote, folder: Path, case: Case) -> None:
    """Nothing is written among the sources: they may be read-only."""
    before = _files()
    code = zygote.start("train", config(folder / "run", "both", steps=2), {"folder": str(folder)}).wait()
    written = _files() - before
    case.count(code == 0 and not written, f"exit code {code}, written {sorted(written)[:5]}")


def _files() -> set[Path]:
    places = [ROOT / name for name in ("ldm", "conf", "tests")]
    return {file for place in places for file in place.rglob("*") if "__pycache__" not in file.parts} | set(
        ROOT.iterdir()
    )
