"""Quality against CPU time on Fashion-MNIST at 32 px, beside the training loops that a researcher would take instead.

    python -m benchmarks.time_to_quality run ours --root DIR --out OUT --seed 0
    python -m benchmarks.time_to_quality run ours_without_labels --root DIR --out OUT --seed 0
    python -m benchmarks.time_to_quality run diffusers --root DIR --out OUT --seed 0
    python -m benchmarks.time_to_quality run lucidrains --root DIR --out OUT --seed 0
    python -m benchmarks.time_to_quality report --root DIR --out OUT

Each contestant trains in one process on one thread. Its clock is the process's CPU time, of everything from the first import:
for ours `train.py experiment=fashion_mnist` as it is shipped (both stages, validation, encoding), for the others their
networks, losses, optimisers and averages, fed with images that are decoded beforehand; `--rate` sets their learning rate, and the
default is the best of those that were tried at a quarter of the time (experiments/time_to_quality). At each mark (CPU
minutes) the clock stands still while samples are drawn with the averaged weights. What is there already is not done again.

    OUT/NAME-SEED-MINUTES.npz    8-bit samples, CPU seconds at which they were drawn, updates of the prior
    OUT/table.md, OUT/NAME.png   the table, and 100 samples of the first seed at the last mark

The evaluator is one for all: the Fréchet distance between samples and the 10,000 held-out images in the features of a classifier
of Fashion-MNIST (trained here, kept in OUT). Real training images of the same number are in the table. diffusers is an
extra of the tests; the other: pip install denoising-diffusion-pytorch.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ldm.build import Config, build
from ldm.metric.distance import frechet_distance
from tests.runs import compose

SHAPE, BATCH, CLASSES = (1, 32, 32), 16, 10


class Clock:
    """CPU seconds of this process but for those in which it stood still, and what is to be drawn when."""

    def __init__(self, name: str, seed: int, out: Path, marks: list[float], samples: int):
        self.name, self.seed, self.out, self.samples = name, seed, out, samples
        self.marks, self._still = sorted(marks), 0.0

    @property
    def seconds(self) -> float:
        return time.process_time() - self._still

    @property
    def done(self) -> float:
        """The share of the last mark that has passed."""
        return self.seconds / (60 * self.marks[-1])

    def look(self, updates: int, draw: Callable[[int], Tensor], last: bool = False) -> bool:
        """At a mark that has passed, or at the end, keep what `draw(count)` gives in [-1, 1]; whether one is left."""
        due = [mark for mark in self.marks if self.seconds >= 60 * mark]
        if last and not due:
            due = self.marks[:1]
        for mark in due[-1:]:
            start, seconds = time.process_time(), self.seconds
            images = ((draw(self.samples).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
            file = self.out / f"{self.name}-{self.seed}-{mark:g}.npz"
            np.savez_compressed(file, images=images, seconds=seconds, updates=updates)
            print(
                f"{file.name}: {seconds:.0f} s, {updates} updates, drawn in {time.process_time() - start:.0f} s",
                flush=True,
            )
            self._still += time.process_time() - start
        self.marks = [mark for mark in self.marks if mark not in due] if not last else []
        return bool(self.marks)


def config(root: Path, *words: str) -> Config:
    """Of the experiment as it is shipped, with images read in this process."""
    found = compose("experiment=fashion_mnist", f"data.root={root}", *words)
    found["data"]["workers"] = 0
    return found


def pixels(root: Path, out: Path) -> dict[str, Tensor]:
    """All images (n, 1, 32, 32) uint8 and labels of both sets, decoded once."""
    file = out / "images.npz"
    if not file.exists():
        module, found = build(config(root)["data"], "data"), {}
        for split in ("train", "val"):
            batches = [
                module.items(split, range(i, min(i + 500, len(module.sources[split]))))
                for i in range(0, len(module.sources[split]), 500)
            ]
            images = torch.cat([batch["image"] for batch in batches])
            found[split] = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
            found[f"{split}_label"] = torch.cat([batch["label"] for batch in batches]).numpy()
        np.savez_compressed(file, **found)
    return {name: torch.from_numpy(array) for name, array in np.load(file).items()}


def _float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


# The contestants


def ours(root: Path, out: Path, clock: Clock, *more: str) -> None:
    from ldm.experiment.experiment import Experiment
    from ldm.random import Random

    class Marks(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, stage: L.LightningModule, *_: object) -> None:
            if stage.name == "second":
                clock.look(stage.updates, lambda n: draw(stage, n), stage.updates == stage.steps)

    def draw(stage: L.LightningModule, count: int) -> Tensor:
        model, modes = stage.model, {module: module.training for module in stage.modules()}
        model.eval()
        with stage.average.applied(), torch.no_grad():
            batches = [torch.arange(i, min(i + 250, count)) for i in range(0, count, 250)]
            images = [model.sample({"label": rows % CLASSES}, Random(1, 0, rows)) for rows in batches]
        for module, training in modes.items():
            module.training = training
        return torch.cat(images)

    class Marked(Experiment):
        def _trainer(self, *callbacks: L.Callback, **named: Any) -> L.Trainer:
            return super()._trainer(*callbacks, Marks(), **named)

    words = ["trainer=cpu", "logger=none", "metric=none", f"seed={clock.seed}"]
    words += [
        f"runs={out / 'runs'}",
        f"store={out / f'store-{clock.name}-{clock.seed}'}",
        f"name={clock.name}-{clock.seed}",
    ]
    Marked(config(root, *words, *more)).run()


def ours_without_labels(root: Path, out: Path, clock: Clock) -> None:
    ours(root, out, clock, "condition=none")


def _feed(images: Tensor, seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: _float(images[torch.randint(len(images), (BATCH,), generator=generator)])


def diffusers(root: Path, out: Path, clock: Clock, rate: float = 4e-3) -> None:
    """Its example `train_unconditional.py`: epsilon, DDPM's linear schedule, AdamW under a cosine, EMA with warm-up."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    torch.manual_seed(clock.seed)
    feed = _feed(pixels(root, out)["train"], clock.seed)
    network = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters", flush=True)
    schedule, solver = DDPMScheduler(1000), DDIMScheduler(1000)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.95, 0.999), weight_decay=1e-6)

    @torch.no_grad()
    def draw(count: int) -> Tensor:
        average.store(network.parameters())
        average.copy_to(network.parameters())
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(count, *SHAPE, generator=generator)
        solver.set_timesteps(15)
        for t in solver.timesteps:
            eps = torch.cat([network(part, t).sample for part in x.split(250)])
            x = solver.step(eps, t, x).prev_sample
        average.restore(network.parameters())
        return x

    updates = 0
    while clock.look(updates, draw):
        x, eps, t = feed(), torch.randn(BATCH, *SHAPE), torch.randint(1000, (BATCH,))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (updates + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(clock.done, 1)))
        loss = F.mse_loss(network(schedule.add_noise(x, eps, t), t).sample, eps)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        updates += 1


def lucidrains(root: Path, out: Path, clock: Clock, rate: float = 2e-3) -> None:
    """The loop of denoising-diffusion-pytorch's `Trainer`: v-prediction, sigmoid schedule, Adam, its EMA."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(clock.seed)
    feed = _feed(pixels(root, out)["train"], clock.seed)
    network = Unet(dim=16, dim_mults=(1, 2, 4), channels=1, flash_attn=False)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters", flush=True)
    diffusion = GaussianDiffusion(network, image_size=32, timesteps=1000, sampling_timesteps=15, objective="pred_v")
    average = EMA(diffusion, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(diffusion.parameters(), rate, betas=(0.9, 0.99))

    @torch.no_grad()
    def draw(count: int) -> Tensor:
        average.ema_model.eval()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            parts = [average.ema_model.sample(batch_size=min(250, count - i)) for i in range(0, count, 250)]
        return torch.cat(parts) * 2 - 1

    updates = 0
    while clock.look(updates, draw):
        loss = diffusion((feed() + 1) / 2)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        updates += 1


OURS = {"ours": ours, "ours_without_labels": ours_without_labels}
OTHERS = {"diffusers": diffusers, "lucidrains": lucidrains}


# The evaluator


def classifier() -> nn.Sequential:
    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    widths = [(1, 24, 2), (24, 48, 1), (48, 64, 2), (64, 64, 1), (64, 96, 2)]
    layers = [module for each in widths for module in layer(*each)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, CLASSES))


def trained(images: dict[str, Tensor], out: Path, epochs: int = 4, batch: int = 128) -> tuple[nn.Sequential, float]:
    """The classifier and its held-out accuracy."""
    network, file = classifier(), out / "classifier.pt"
    if not file.exists():
        torch.manual_seed(0)
        network, steps = classifier(), len(images["train"]) // batch
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps * epochs)
        for _ in range(epochs):
            order = torch.randperm(len(images["train"]))
            for i, rows in enumerate(order[: steps * batch].split(batch)):
                x = _float(images["train"][rows])
                F.cross_entropy(network(x.flip(-1) if i % 2 else x), images["train_label"][rows].long()).backward()
                optimizer.step()
                optimizer.zero_grad()
                rate.step()
        torch.save(network.state_dict(), file)
    network.load_state_dict(torch.load(file, weights_only=True))
    network.eval()
    with torch.no_grad():
        guesses = torch.cat([network(_float(part)).argmax(1) for part in images["val"].split(500)])
    return network, (guesses == images["val_label"]).float().mean().item()


@torch.no_grad()
def features(network: nn.Sequential, images: Tensor) -> Tensor:
    return torch.cat([network[:-1](_float(part)) for part in images.split(500)])


def report(root: Path, out: Path) -> None:
    images = pixels(root, out)
    network, accuracy = trained(images, out)
    reference = features(network, images["val"])
    rows: dict[tuple[str, float], list[tuple[float, float, int, int]]] = {}
    for file in sorted(out.glob("*-*-*.npz")):
        name, seed, mark = file.stem.rsplit("-", 2)
        found = np.load(file)
        samples = torch.from_numpy(found["images"])
        fd = frechet_distance(features(network, samples), reference)
        rows.setdefault((name, float(mark)), []).append(
            (fd, float(found["seconds"]), int(found["updates"]), len(samples))
        )
        if seed == "0":
            grid = samples[:100, 0].view(10, 10, 32, 32).permute(0, 2, 1, 3).reshape(320, 320)
            Image.fromarray(grid.numpy()).resize((640, 640), Image.Resampling.NEAREST).save(out / f"{name}-{mark}.png")
    lines = [f"Classifier's held-out accuracy {accuracy:.3f}; `fd` to the 10,000 held-out images.", ""]
    lines += ["| | CPU min | updates | images drawn | fd, a seed each |", "| --- | --- | --- | --- | --- |"]
    for (name, _), found in sorted(rows.items()):
        minutes, updates = found[0][1] / 60, found[0][2]
        distances = ", ".join(f"{fd:.2f}" for fd, *_ in found)
        lines.append(f"| {name} | {minutes:.1f} | {updates} | {found[0][3]:,} | {distances} |")
    for count in sorted({each[3] for found in rows.values() for each in found}):
        real = images["train"][torch.randperm(len(images["train"]), generator=torch.Generator().manual_seed(0))[:count]]
        lines.append(
            f"| training images | | | {count:,} | {frechet_distance(features(network, real), reference):.2f} |"
        )
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running, reporting = verbs.add_parser("run"), verbs.add_parser("report")
    for each in (running, reporting):
        each.add_argument("--root", type=Path, required=True, help="of {train,test}.parquet")
        each.add_argument("--out", type=Path, required=True)
    running.add_argument("name", choices=[*OURS, *OTHERS])
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--rate", type=float, help="learning rate of the others")
    running.add_argument("--samples", type=int, default=2000)
    running.add_argument("--marks", type=float, nargs="+", default=[3, 6, 9, 12], help="CPU minutes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.verb == "report":
        report(asked.root, asked.out)
        return
    clock = Clock(asked.name, asked.seed, asked.out.resolve(), asked.marks, asked.samples)
    where = (asked.root.resolve(), asked.out.resolve(), clock)
    if asked.name in OURS:
        OURS[asked.name](*where)
    else:
        OTHERS[asked.name](*where, *([] if asked.rate is None else [asked.rate]))


if __name__ == "__main__":
    main()
