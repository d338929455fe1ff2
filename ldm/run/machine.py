"""What a run is computed on and by: the device, the arithmetic of the CPU, and the version of the code."""

from __future__ import annotations

import contextlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist


def flush_denormals() -> None:
    """Take numbers between 0 and 1.2e-38 for 0 on the CPU: in this thread, and in those that it starts from now on, so before
    torch has computed anything.

    The gradients of what a network is sure of are as small, and arithmetic with them is slow: a PixelCNN that had learnt MNIST's
    background took 3.7 times as long for an update (experiments/LOG.md).
    """
    torch.set_flush_denormal(True)


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. ValueError where this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # no device's name, none of its kind, or not so many
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        said = f"this machine has {', '.join(there)}, and auto is a GPU where there is one"
        raise ValueError(f"device={name}: torch has no such device here; {said}") from error


def device_name(device: torch.device) -> str:
    """The card's name, or CPU and its threads, with the number of ranks where there are several."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type.upper()}, {torch.get_num_threads()} threads"
    return f"{name} x {world}" if world > 1 else name


def code_version() -> str | None:
    """Of a checkout the commit, with + where the tree was changed; of an installed package its version, whatever repository it
    may lie in. None where there is neither."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        with contextlib.suppress(PackageNotFoundError):
            return version("ldm")
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=10", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain") else "")
