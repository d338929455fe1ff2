"""How long a checkpoint stops training, and what memory it takes: ours beside torch.save and safetensors' own writer.

    python benchmarks/checkpoint.py --gib 1

Each writer in a process of its own, so that the peak of memory is its own; all flush to the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from ldm.files import sync
from ldm.run.checkpoint import Checkpoints

ROUNDS = 5


def ours(folder: Path, step: int, state: dict) -> None:
    Checkpoints(folder).save(step, state)


def torchs(folder: Path, step: int, state: dict) -> None:
    torch.save(state, folder / f"{step % 2}.pt")
    sync(folder / f"{step % 2}.pt")


def safetensors_own(folder: Path, step: int, state: dict) -> None:
    safetensors.torch.save_file(state["weights"], folder / f"{step % 2}.safetensors")
    sync(folder / f"{step % 2}.safetensors")


WRITERS: dict[str, Callable[[Path, int, dict], None]] = {
    "ldm, with its checksum": ours,
    "torch.save": torchs,
    "safetensors": safetensors_own,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, gib: float, place: str, answer: multiprocessing.Queue) -> None:
    state = {"updates": 0, "weights": {str(i): torch.randn(1 << 22) for i in range(round(gib * 64))}}
    size = sum(tensor.nbytes for tensor in state["weights"].values())
    folder, before, seconds = Path(tempfile.mkdtemp(dir=place)), peak(), []
    for step in range(ROUNDS):
        start = time.monotonic()
        WRITERS[name](folder, step, state)
        seconds.append(time.monotonic() - start)
    shutil.rmtree(folder)
    answer.put((statistics.median(seconds), max(seconds), 1 + (peak() - before) / size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--place", default=os.getcwd(), help="a directory of the disk to be measured")
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| writer | seconds, median | seconds, worst | memory / state |\n| --- | --- | --- | --- |")
    for name in WRITERS:
        answer = context.Queue()
        process = context.Process(target=measure, args=(name, wanted.gib, wanted.place, answer))
        process.start()
        median, worst, memory = answer.get()
        process.join()
        print(f"| {name} | {median:.2f} | {worst:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
