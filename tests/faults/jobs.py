"""What the zygote's children do: a run of `ldm`, with something that goes wrong in it.

Hooks (all optional) of a run:
    trace: file; a line [update, rows, items] for each micro-batch.
    pause: {"at": "start" | "validate" | "save", "file": file}: touches the file there, once, and waits a moment.
    poison: {"what": "loss" | "gradient" | "average", "updates": [...], "rank": r}: makes it NaN.
    fail: {"how": "raise" | "kill" | "freeze", "update": k, "rank": r}.
    clock: the system's clock jumps by weeks at every look.
    folder: where the process is.
    digest: file; a hash of all weights of the model in the end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

import ldm.experiment.experiment
import ldm.files
from ldm.command.terminal import guarded
from ldm.run.checkpoint import Checkpoints
from ldm.stage.stage import Stage

torch.set_num_threads(1)
PAUSE = 0.4  # seconds


def nothing() -> int:
    return 0


def train(config: dict[str, Any], hooks: dict[str, Any] | None = None) -> int:
    """One `python train.py`, from its config on."""
    hooks = hooks or {}
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if "trace" in hooks:
        _trace(hooks["trace"])
    if "pause" in hooks:
        _pause(**hooks["pause"])
    if "poison" in hooks and hooks["poison"].get("rank", rank) == rank:
        _poison(hooks["poison"]["what"], hooks["poison"]["updates"])
    if "fail" in hooks and hooks["fail"]["rank"] == rank:
        _fail(hooks["fail"]["how"], hooks["fail"]["update"])
    if hooks.get("clock"):
        jumps = itertools.cycle([0, 3e6, -3e6, 7e5])
        now = time.time
        time.time = lambda: now() + next(jumps)
    if "folder" in hooks:
        os.chdir(hooks["folder"])
    return guarded(lambda: _run(config, hooks.get("digest")))


def _run(config: dict[str, Any], digest: str | None) -> int:
    experiment = ldm.experiment.experiment.Experiment(config)
    code = experiment.run()
    if digest is not None:
        found = hashlib.sha256()
        for name, value in experiment.model.state_dict().items():
            found.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        Path(digest).write_text(found.hexdigest())
    return code


def _before_step(act: Any) -> None:
    inner = Stage.training_step

    def training_step(self: Stage, batch: dict[str, Any], index: int) -> None:
        act(self, batch)
        return inner(self, batch, index)

    Stage.training_step = training_step


def _trace(file: str) -> None:
    def note(stage: Stage, batch: dict[str, Any]) -> None:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(json.dumps([batch["step"], batch["row"].tolist(), batch["index"].tolist()]) + "\n")

    _before_step(note)


def _pause(at: str, file: str) -> None:
    place, name = {
        "start": (Stage, "training_step"),
        "validate": (Stage, "validate"),
        "save": (Checkpoints, "save"),
    }[at]
    inner = getattr(place, name)

    def paused(*arguments: Any, **options: Any) -> Any:
        if not Path(file).exists():
            Path(file).touch()
            time.sleep(PAUSE)
        return inner(*arguments, **options)

    setattr(place, name, paused)


def _poison(what: str, updates: list[int]) -> None:
    def spoil(stage: Stage, batch: dict[str, Any]) -> None:
        if stage.updates not in updates:
            return
        if what == "average":
            stage.average.weights[0].fill_(float("nan"))
        elif what == "gradient":
            handle = stage._players[0].parameters[0].register_hook(lambda g: (handle.remove(), g * float("nan"))[1])
        else:
            player = stage._players[0]
            inner = player.loss

            def loss(*arguments: Any) -> Any:
                player.loss = inner
                terms, values = inner(*arguments)
                return {name: term * float("nan") for name, term in terms.items()}, values

            player.loss = loss

    _before_step(spoil)


def _fail(how: str, update: int) -> None:
    def act(stage: Stage, batch: dict[str, Any]) -> None:
        if stage.updates != update:
            return
        if how == "raise":
            raise RuntimeError("a cosmic ray")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    _before_step(act)


def save(folder: str, stall: float) -> int:
    """Checkpoints one after the other, with a stall at every flush."""
    inner = ldm.files.sync

    def sync(path: Path) -> None:
        time.sleep(stall)
        inner(path)

    ldm.files.sync = sync
    kept = Checkpoints(Path(folder))
    found = kept.load()
    step = 0 if found is None else found[0]
    while True:
        step += 1
        kept.save(step, {"step": step, "weights": {str(i): torch.full((5000,), float(step)) for i in range(4)}})


def limited(config: dict[str, Any], megabytes: float) -> int:
    """A run whose files may not grow beyond a size: a disk that is full, as far as a process can tell."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(megabytes * 2**20),) * 2)
    return train(config)


def plain(folder: str, steps: int, hooks: dict[str, Any] | None = None) -> int:
    """The same kind of training as Lightning's own documentation has it; its own checkpoints, resume and signals."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint

    from tests.faults.plain import Net, images

    hooks = hooks or {}
    L.seed_everything(0, verbose=False)
    place = Path(folder)
    saver = ModelCheckpoint(place, save_last=True, every_n_train_steps=5, save_top_k=2, monitor="step", mode="max")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[saver],
    )
    last = place / "last.ckpt"
    net = Net(poisoned=hooks.get("poison"), mark=hooks.get("mark"))
    trainer.fit(net, torch.utils.data.DataLoader(images(), 4, shuffle=True), ckpt_path=last if last.exists() else None)
    torch.save(net.state_dict(), place / "final.pt")
    return 0


def encode(config: dict[str, Any], stall: float) -> int:
    """A run whose latents are cached in shards of 16, each written with a stall."""
    import functools

    from ldm.data import latent

    latent.build = functools.partial(latent.build, shard=16, batch_size=8)
    inner = latent.whole_file

    def stalled(file: Path) -> AbstractContextManager[Path]:
        time.sleep(stall)
        return inner(file)

    latent.whole_file = stalled
    return train(config)
