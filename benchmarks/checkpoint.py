"""How long a checkpoint stops training, and what memory it takes: ours beside torch.save and safetensors' own writer.

    python benchmarks/checkpoint.py [--gib 1] [--place DIR] [--device cuda]

Each writer in a process of its own, so that the peak of the host's memory is its own; all flush to the disk. `memory / state` is
that peak over what was there before the first writing, the state itself counted where it is on the host: on a CPU 1 is no copy,
on a GPU 0. "Then a checksum" is what it takes to have from safetensors what `ldm.tensors` gives: the file is read again.
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

from ldm.files import checksum, sync
from ldm.run.checkpoint import Checkpoints
from ldm.tensors import write_tensors

ROUNDS = 5


def ours(folder: Path, step: int, state: dict) -> None:
    Checkpoints(folder).save(step, state)


def torchs(folder: Path, step: int, state: dict) -> None:
    torch.save(state, folder / f"{step % 2}.pt")
    sync(folder / f"{step % 2}.pt")


def safetensors_own(folder: Path, step: int, state: dict) -> None:
    safetensors.torch.save_file(state["weights"], folder / f"{step % 2}.safetensors")
    sync(folder / f"{step % 2}.safetensors")


def ours_alone(folder: Path, step: int, state: dict) -> None:
    write_tensors(folder / f"{step % 2}.safetensors", state["weights"])


def safetensors_checked(folder: Path, step: int, state: dict) -> None:
    safetensors_own(folder, step, state)
    checksum(folder / f"{step % 2}.safetensors")


WRITERS: dict[str, Callable[[Path, int, dict], None]] = {
    "ldm.run.checkpoint": ours,
    "ldm.tensors.write_tensors, with its checksum": ours_alone,
    "safetensors.torch.save_file": safetensors_own,
    "safetensors.torch.save_file, then a checksum": safetensors_checked,
    "torch.save": torchs,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, gib: float, place: str, device: str, answer: multiprocessing.Queue) -> None:
    weights = {str(i): torch.randn(1 << 22).to(device) for i in range(round(gib * 64))}
    state = {"updates": 0, "weights": weights}
    size = sum(tensor.nbytes for tensor in state["weights"].values())
    folder, before, seconds = Path(tempfile.mkdtemp(dir=place)), peak(), []
    for step in range(ROUNDS):
        start = time.monotonic()
        WRITERS[name](folder, step, state)
        seconds.append(time.monotonic() - start)
    shutil.rmtree(folder)
    answer.put((statistics.median(seconds), max(seconds), (device == "cpu") + (peak() - before) / size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--place", default=os.getcwd(), help="a directory of the disk to be measured")
    parser.add_argument("--device", default="cpu", help="where the tensors are")
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| writer | seconds, median | seconds, worst | memory / state |\n| --- | --- | --- | --- |")
    for name in WRITERS:
        answer = context.Queue()
        process = context.Process(target=measure, args=(name, wanted.gib, wanted.place, wanted.device, answer))
        process.start()
        median, worst, memory = answer.get()
        process.join()
        print(f"| {name} | {median:.2f} | {worst:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
