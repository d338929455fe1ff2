"""The controls: the same faults done to a plain LightningModule, which shows that the tests bite.

Lightning does what it promises; it does not promise this. What is counted as passed is what is asked of `ldm`.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn

from tests.faults.runs import Case
from tests.faults.zygote import Zygote


class Net(L.LightningModule):
    """An autoencoder with dropout, as in a tutorial."""

    def __init__(self, poisoned: int | None = None, mark: str | None = None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 64))
        self.poisoned, self.mark = poisoned, mark

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.mark is not None and self.global_step == 7:
            Path(self.mark).touch()
            time.sleep(0.4)
        (x,) = batch
        loss = (self.net(x) - x).square().mean()
        return loss * float("nan") if self.global_step == self.poisoned else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def images() -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)))


def _weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "final.pt", weights_only=True)


def kills(zygote: Zygote, folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """kill -9 after a checkpoint, and going on from `last.ckpt`."""
    (folder / "whole").mkdir(parents=True)
    assert zygote.start("plain", str(folder / "whole"), 20).wait() == 0
    wanted = _weights(folder / "whole")
    for i in range(count):
        place, mark = folder / str(i), folder / f"mark-{i}"
        place.mkdir()
        job = zygote.start("plain", str(place), 20, {"mark": str(mark)})
        while job.running and not mark.exists():
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.3))
        job.send(signal.SIGKILL)
        job.wait()
        code = zygote.start("plain", str(place), 20).wait()
        found = _weights(place) if code == 0 else {}
        case.count(code == 0 and all(torch.equal(found[key], wanted[key]) for key in wanted), "other weights")
    shutil.rmtree(folder)


def damage(zygote: Zygote, folder: Path, case: Case, count: int, dice: random.Random) -> None:
    """One bit of `last.ckpt`: it is noticed."""
    folder.mkdir(parents=True)
    assert zygote.start("plain", str(folder), 10).wait() == 0
    file = folder / "last.ckpt"
    whole = file.read_bytes()
    for _ in range(count):
        bad, at = bytearray(whole), dice.randrange(len(whole))
        bad[at] ^= 1 << dice.randrange(8)
        file.write_bytes(bad)
        code = zygote.start("plain", str(folder), 12).wait()
        case.count(code != 0, f"byte {at}: trained on from it, exit code {code}")
    shutil.rmtree(folder)


def signals(zygote: Zygote, folder: Path, case: Case) -> None:
    """Asked to stop: what was done is saved, and the exit code says that it is not finished."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        place, mark = folder / str(number), folder / f"mark-{number}"
        place.mkdir(parents=True)
        job = zygote.start("plain", str(place), 20, {"mark": str(mark)})
        while job.running and not mark.exists():
            time.sleep(0.002)
        job.send(number)
        code = job.wait()
        case.count(code > 1, f"signal {number}: exit code {code}")
    shutil.rmtree(folder)


def poison(zygote: Zygote, folder: Path, case: Case) -> None:
    """One NaN in the loss, with gradient clipping."""
    folder.mkdir(parents=True)
    code = zygote.start("plain", str(folder), 20, {"poison": 5}).wait()
    case.count(
        code != 0 or all(w.isfinite().all() for w in _weights(folder).values()), f"exit code {code}, NaN weights"
    )
    shutil.rmtree(folder)
