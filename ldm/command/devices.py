"""Which of a machine's GPUs each of several jobs at once has.

Each job asks for GPUs as if it were alone, and without a word all would sit on the first. So each is shown its own by
CUDA_VISIBLE_DEVICES: as many as its trainer asks for, or an equal part of all. Where there are fewer than jobs ask for, they
are shared in turn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def shares(n_jobs: int, trainer: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the environment of each of so many jobs at once has of its own.

    Arguments:
        trainer: of the sweep's config: `accelerator` and `devices`.
    """
    if n_jobs == 1 or trainer.get("accelerator") == "cpu":
        return [{}] * n_jobs
    there = visible()
    return [{_VISIBLE: ",".join(each)} if each else {} for each in parts(there, n_jobs, trainer.get("devices"))]


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them. No device is touched."""
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip() and each.strip() != "-1"]
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def parts(there: Sequence[str], n_jobs: int, asked: Any) -> list[list[str]]:
    """The devices of each of `n_jobs` jobs, of which each asked for a number of them, or for all that it sees."""
    if not there:
        return [[]] * n_jobs
    each = asked if type(asked) is int and asked > 0 else max(1, len(there) // n_jobs)
    each = min(each, len(there))
    groups = [list(there[start : start + each]) for start in range(0, len(there) - each + 1, each)]
    return [groups[job % len(groups)] for job in range(n_jobs)]
