"""The whole training loop (Stage under Trainer, data, logging, averages, guards) beside the bare step of the same model.

    python benchmarks/loop.py [--rounds 5] [--updates 60] [--threads 2] [overrides of --experiment, shapes by default ...]
    python benchmarks/loop.py --experiment ldm_coco --updates 20 --waits data.root=DIR      in the experiment's precision

Both take turns in one process on the second stage, from images (no latent cache, so that the loop does all its work); the
bare step has its batches in memory already. The ratio is the median over rounds of loop time / bare time, `waiting` the share
of the loop's time in which it waited for data. With `--waits`, the places at which the host waits for a GPU, and how often an
update does: none is what a fused optimiser and a step without a question to the device come to.
"""

from __future__ import annotations

import argparse
import collections
import logging
import statistics
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from networks import autocast, scaler, synchronize
from omegaconf import OmegaConf

from ldm.build import build
from ldm.command.grammar import settable
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run.machine import device_name
from ldm.stage.feed import Feed
from ldm.stage.second import Second


class Clock(L.Callback):
    """Seconds of the updates, the first few left out (workers start, caches fill); and where the host waits for a GPU."""

    def __init__(self, warm: int, watch: bool):
        self.warm, self.watch, self.seconds, self.wait = warm, watch, 0.0, 0.0

    def on_train_batch_end(self, trainer, stage, outputs, batch, index) -> None:
        if stage.updates == self.warm:
            synchronize(stage.device)
            self.start, self.before = time.perf_counter(), stage.clock.wait
            if self.watch:
                torch.cuda.set_sync_debug_mode("warn")
        if stage.updates == stage.steps:
            if self.watch:
                torch.cuda.set_sync_debug_mode("default")
            synchronize(stage.device)
            self.seconds = time.perf_counter() - self.start
            self.wait = stage.clock.wait - self.before


def loop(config: dict, model: LatentModel, data, updates: int, warm: int, watch: bool) -> tuple[Clock, list[str]]:
    """Under the trainer: the times, and the places at which the host waited for a GPU, one for each time."""
    recipe = {**config["second"], "steps": updates + warm, "validate_every": 0, "save_every": 0, "log_every": 10_000}
    stage, clock = Second(model, build(recipe), 0), Clock(warm, watch)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    own = {"max_epochs": 1, "use_distributed_sampler": False, "callbacks": [clock]}
    trainer = build(config["trainer"], "trainer", **own, **quiet)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always" if watch else "ignore")
        trainer.fit(stage, datamodule=Feed(data))
    waits = [each for each in said if "synchronizing CUDA operation" in str(each.message)]
    return clock, [f"{'/'.join(Path(each.filename).parts[-2:])}:{each.lineno}" for each in waits]


def bare(config: dict, model: LatentModel, data, updates: int, warm: int, device: torch.device) -> float:
    """Seconds an update of the ten lines that anyone would write: encode, loss, backward, clip, AdamW, average."""
    precision = config["trainer"]["precision"]
    model.to(device).train()
    parameters = [p for part in (model.condition, model.prior) for p in part.parameters()]
    averages = [p.detach().clone() for p in parameters]
    optimizer, scaled = build(config["second"]["optimizer"])(parameters), scaler(device, precision)
    batches = [_on(batch, device) for batch in data.loader(0, updates + warm)]
    for i, batch in enumerate(batches):
        if i == warm:
            synchronize(device)
            start = time.perf_counter()
        random = Random(0, i, batch["row"], batch["total"])
        with autocast(device, precision):
            z, c = model.latent(batch, random), model.context(batch, random)
            loss = sum(model.prior.loss(z, c, random).values())
        scaled.scale(loss).backward()
        scaled.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaled.step(optimizer)
        scaled.update()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1e-3)
    synchronize(device)
    return (time.perf_counter() - start) / updates


def _on(batch: dict, device: torch.device) -> dict:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="shapes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--waits", action="store_true", help="count the waits for a GPU")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    with initialize_config_dir(str(Path(__file__).parents[1].resolve() / "conf"), version_base="1.3"):
        overrides = [f"experiment={arguments.experiment}", *map(settable, arguments.overrides)]
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    config["autoencoder"].pop("checkpoint", None)
    device = build(config["trainer"], "trainer", logger=False, enable_checkpointing=False).strategy.root_device
    data, model = build(config["data"]), LatentModel.build(config)
    model.condition.fit(data.captions())
    watch = arguments.waits and device.type == "cuda"
    clocks, ratios, steps, places = [], [], [], []
    for number in range(arguments.rounds):
        step = bare(config, model, data, arguments.updates, arguments.warm, device)
        clock, waited = loop(config, model, data, arguments.updates, arguments.warm, watch)
        whole, wait = clock.seconds / arguments.updates, clock.wait / clock.seconds
        ratios.append(whole / step)
        clocks.append((whole, wait))
        steps.append(step)
        places += waited
        print(
            f"round {number + 1}: bare {1e3 * step:.1f} ms, loop {1e3 * whole:.1f} ms, ratio {whole / step:.3f}, wait {wait:.1%}",
            flush=True,
        )
    whole, batch = statistics.median(each for each, _ in clocks), config["data"]["batch_size"]
    wait = statistics.median(each for _, each in clocks)
    print(
        f"median: bare step {1e3 * statistics.median(steps):.1f} ms, loop / bare {statistics.median(ratios):.3f}, "
        f"{batch / whole:.1f} images/s, waiting for data {wait:.2%}"
    )
    print(f"{device_name(device)}, {config['trainer']['precision']}, batch {batch}, {data.workers} workers")
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB, both loops' networks in it")
    if watch:
        updates = arguments.rounds * arguments.updates
        print(f"waits for the device: {len(places) / updates:.2f} an update")
        for place, count in collections.Counter(places).most_common():
            print(f"    {count / updates:.2f}  {place}")
    elif arguments.waits:
        print("waits for the device: there is none to wait for")


if __name__ == "__main__":
    main()
