"""R4: a checkpoint that is not what was written is noticed, named and passed over, wherever the damage is."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path

import torch

from ldm.run.checkpoint import Checkpoints
from tests.faults.runs import Case


def checkpoints(folder: Path) -> Checkpoints:
    """Two checkpoints of a small state: 1 and 2."""
    kept, dice = Checkpoints(folder), torch.Generator().manual_seed(0)
    for step in (1, 2):
        kept.save(
            step,
            {
                "updates": step,
                "weights": {str(i): torch.randn(64, 16, generator=dice) for i in range(4)},
                "optimizers": {
                    "a": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 1e-3}]}
                },
            },
        )
    return kept


def _passed_over(kept: Checkpoints, case: Case, what: str) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda entry: said.append(entry.getMessage())
    logger = logging.getLogger("ldm.run.checkpoint")
    logger.addHandler(handler)
    try:
        found = kept.load()
    finally:
        logger.removeHandler(handler)
    case.count(found is not None and found[0] == 1 and any("step-2" in line for line in said), what)


def flips(folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """One bit, anywhere in one of the files of the newest checkpoint."""
    kept = checkpoints(folder)
    files = sorted((folder / "step-2").iterdir())
    for i in range(count):
        file = files[i % len(files)]
        whole = bytearray(file.read_bytes())
        at, bit = dice.randrange(len(whole)), dice.randrange(8)
        whole[at] ^= 1 << bit
        file.write_bytes(whole)
        _passed_over(kept, case, f"bit {bit} of byte {at} of {file.name}")
        whole[at] ^= 1 << bit
        file.write_bytes(whole)
    assert kept.load()[0] == 2
    shutil.rmtree(folder)


def cuts(folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """A file of the newest checkpoint ends early, is empty or is not there."""
    kept = checkpoints(folder)
    files = sorted((folder / "step-2").iterdir())
    for i in range(count):
        file = files[i % len(files)]
        whole = file.read_bytes()
        length = 0 if i < len(files) else dice.randrange(len(whole))
        file.write_bytes(whole[:length])
        if i >= count - len(files):
            file.unlink()
        _passed_over(kept, case, f"{file.name} cut at {length}")
        file.write_bytes(whole)
    assert kept.load()[0] == 2
    shutil.rmtree(folder)
