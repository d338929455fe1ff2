"""The whole training loop (Stage under Trainer, data, logging, averages, guards) beside the bare step of the same model.

    python benchmarks/loop.py [--rounds 5] [--updates 60] [--threads 2] [overrides of experiment=shapes ...]

Both take turns in one process on the second stage of `experiment=shapes`, from images (no latent cache, so that the loop does all
its work); the bare step has its batches in memory already. The ratio is the median over rounds of loop time / bare time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ldm.build import build
from ldm.command.words import settable
from ldm.model import LatentModel
from ldm.random import Random
from ldm.stage.feed import Feed
from ldm.stage.second import Second


class Clock(L.Callback):
    """Seconds of the updates, the first few left out (workers start, caches fill)."""

    def __init__(self, warm: int):
        self.warm, self.seconds, self.wait = warm, 0.0, 0.0

    def on_train_batch_end(self, trainer, stage, outputs, batch, index) -> None:
        if stage.updates == self.warm:
            self.start, self.before = time.perf_counter(), stage._wait
        if stage.updates == stage.steps:
            self.seconds = time.perf_counter() - self.start
            self.wait = stage._wait - self.before


def loop(config: dict, model: LatentModel, data, updates: int, warm: int) -> tuple[float, float]:
    """(seconds an update, share of it spent waiting for data) under the trainer."""
    recipe = {**config["second"], "steps": updates + warm, "validate_every": 0, "save_every": 0, "log_every": 10_000}
    stage, clock = Second(model, build(recipe), 0), Clock(warm)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, use_distributed_sampler=False, callbacks=[clock], **quiet)
    trainer.fit(stage, datamodule=Feed(data))
    return clock.seconds / updates, clock.wait / clock.seconds


def bare(config: dict, model: LatentModel, data, updates: int, warm: int) -> float:
    """Seconds an update of the ten lines that anyone would write: encode, loss, backward, clip, AdamW, average."""
    parameters = [p for part in (model.condition, model.prior) for p in part.parameters()]
    averages = [p.detach().clone() for p in parameters]
    optimizer = build(config["second"]["optimizer"])(parameters)
    batches = list(data.loader(0, updates + warm))
    model.train()
    for i, batch in enumerate(batches):
        if i == warm:
            start = time.perf_counter()
        random = Random(0, i, batch["row"], batch["total"])
        z, c = model.latent(batch, random), model.context(batch, random)
        sum(model.prior.loss(z, c, random).values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1e-3)
    return (time.perf_counter() - start) / updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    with initialize_config_dir(str(Path(__file__).parents[1].resolve() / "conf"), version_base="1.3"):
        overrides = ["experiment=shapes", *map(settable, arguments.overrides)]
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    config["autoencoder"].pop("checkpoint", None)
    data, model = build(config["data"]), LatentModel.build(config)
    model.condition.fit(data.captions())
    ratios, waits, steps = [], [], []
    for number in range(arguments.rounds):
        step = bare(config, model, data, arguments.updates, arguments.warm)
        whole, wait = loop(config, model, data, arguments.updates, arguments.warm)
        ratios.append(whole / step)
        waits.append(wait)
        steps.append(step)
        print(
            f"round {number + 1}: bare {1e3 * step:.1f} ms, loop {1e3 * whole:.1f} ms, ratio {whole / step:.3f}, wait {wait:.1%}"
        )
    print(
        f"median: bare step {1e3 * statistics.median(steps):.1f} ms, loop / bare {statistics.median(ratios):.3f}, ",
        end="",
    )
    print(f"waiting for data {statistics.median(waits):.2%}; {arguments.threads} threads")


if __name__ == "__main__":
    main()
