"""Train the recipe `v_zsnr` under three weightings and measure what it samples.

    python experiments/weightings/study.py DATA OUT [--steps 600] [--n 300]

DATA is a folder of Fashion-MNIST, {train,test}.parquet. Its images are brought to 16 x 16 pixels of unit variance: small
enough that a model of a class-conditional diffusion is trained on one core in minutes. All else is the recipe's: zero
terminal SNR, v, uniform times, a trailing grid, DDIM, classifier-free guidance. Every model is saved as soon as it is
trained and every line of numbers goes to OUT/numbers.jsonl; what is there is not done again. The tables are printed.

    start  rms of E[x | x_1, class] less the mean of the class's images, where deviations are 1: 0 is right, for at t = 1
           there is nothing but noise to be seen
    fd     Frechet distance from test images in the features of a classifier, 64 of them
    right  share of samples that the classifier takes for the class that was asked for
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.unet import UNet
from ldm.condition.label import Label
from ldm.diffusion.denoiser import Errors
from ldm.diffusion.grid import Trailing
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.guidance.interval import Interval
from ldm.diffusion.parameterization import V
from ldm.diffusion.sampler.ddim import DDIM
from ldm.diffusion.schedule import ScaledLinear, ZeroTerminalSNR
from ldm.diffusion.time import Uniform
from ldm.diffusion.weighting import Density, MinSNR, Prediction, Weighting
from ldm.metric.distance import frechet_distance
from ldm.prior.base import Latents
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.tensors import read_tensors, write_tensors
from ldm.types import Time

SIDE, CLASSES, BATCH = 16, 10, 64
STEPS, SEEDS = (5, 10, 50), (0, 1)
GUIDANCE = {
    "1": ClassifierFree,
    "2": partial(ClassifierFree, scale=2.0),
    "2 in the interval": partial(Interval, guidance=partial(ClassifierFree, scale=2.0), low=0.4, high=3.0),
}


class Capped(Weighting):
    """min(SNR + 1, gamma) on the error of x: the plain error of v, which is SNR + 1, where there is much noise, and
    min-SNR's cap where there is little. Of the two it keeps what each is for: a weight at SNR 0, and no more than gamma on
    the error of an image at low noise."""

    def __init__(self, gamma: float = 5.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, errors: Errors, log_snr: Time, density: Density) -> Time:
        return (self.gamma * errors.x).minimum(errors.x + errors.eps)


WEIGHTINGS = {"min_snr": MinSNR, "prediction": Prediction, "capped": Capped}


def images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 16, 16) in [-1, 1] and labels (n,)."""
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files={split: str(folder / f"{split}.parquet")})[split].with_format("torch")
    x = torch.stack([row.float() for row in rows["image"]]).view(-1, 1, 28, 28) / 127.5 - 1
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), value=-1), 2), rows["label"][:]


class Classifier(nn.Module):
    """Of classes; `features` are what its last layer sees."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(), nn.Flatten()]
        self.body, self.head = nn.Sequential(*layers, nn.Linear(64 * 16, 64), nn.GELU()), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(part) for part in x.split(1000)])

    @torch.no_grad()
    def right(self, features: Tensor, labels: Tensor) -> float:
        """The share of images that it takes for what they are labelled."""
        return (self.head(features).argmax(1) == labels).float().mean().item()


def classifier(file: Path, x: Tensor, labels: Tensor, updates: int = 2000) -> Classifier:
    """The one in `file`; trained where there is none."""
    torch.manual_seed(0)
    network = Classifier()
    if not file.exists():
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        for step in range(updates):
            rows = torch.randint(len(x), (128,))
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - step / updates)
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), labels[rows]).backward()
            optimizer.step()
        write_tensors(file, network.state_dict())
    network.load_state_dict(read_tensors(file))
    return network


class Model(nn.Module):
    """A prior of whitened pixels and the condition that it is given."""

    def __init__(self, weighting: str):
        super().__init__()
        self.condition = Label(CLASSES)

        def backbone(**given) -> UNet:
            settings = {"multipliers": (1, 2), "blocks": 1, "attention": (False, True), "head_width": 32, "patch": 2}
            return UNet(**given, width=32, scale_shift=True, pooled_context=True, **settings)

        recipe = (ZeroTerminalSNR(ScaledLinear()), V(), WEIGHTINGS[weighting](), Uniform(), DDIM(), Trailing())
        self.prior = Diffusion(Latents((1, SIDE, SIDE)), self.condition.shape, backbone, *recipe, ClassifierFree)


def trained(weighting: str, seed: int, z: Tensor, labels: Tensor, steps: int) -> Model:
    """The averaged model after `steps` updates."""
    torch.manual_seed(seed)
    model, average = Model(weighting), Model(weighting)
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-3, weight_decay=0.01)
    average.load_state_dict(model.state_dict())
    start = time.process_time()
    for step in range(steps):
        random = Random(seed, step, torch.arange(BATCH))
        rows = (random.uniform("rows") * len(z)).long()
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss = model.prior.loss(z[rows], model.context({"label": labels[rows]}, random), random)["diffusion"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(0.995, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % 250 == 0:
            print(
                f"{weighting} {seed} update {step} loss {loss.item():.4f} {time.process_time() - start:.0f} s",
                flush=True,
            )
    return average.eval()


@torch.no_grad()
def start_error(model: Model, means: Tensor) -> float:
    labels = torch.arange(CLASSES).repeat_interleave(20)
    x_1 = Random(0, 0, torch.arange(len(labels))).normal("start", (1, SIDE, SIDE))
    found = model.prior.denoiser(x_1, torch.ones(len(labels)), model.condition({"label": labels}))
    return (found.view(CLASSES, 20, 1, SIDE, SIDE) - means[:, None]).square().mean().sqrt().item()


@torch.no_grad()
def samples(model: Model, steps: int, guidance: str, n: int) -> tuple[Tensor, Tensor]:
    """n samples, and the classes that were asked for, all equally often."""
    model.prior.steps, model.prior.guidance = steps, GUIDANCE[guidance]
    labels = torch.arange(n) % CLASSES
    found = [
        model.prior.sample((len(rows), 1, SIDE, SIDE), model.condition({"label": labels[rows]}), Random(0, 0, rows))
        for rows in torch.arange(n).split(100)
    ]
    return torch.cat(found), labels


def table(name: str, lines: list[dict]) -> str:
    """A row for a weighting and a guidance, a column for a number of steps; in a cell the numbers of all seeds."""
    rows = [f"| {name} | " + " | ".join(map(str, STEPS)) + " |", "| --- " * (len(STEPS) + 1) + "|"]
    for guidance, weighting in itertools.product(GUIDANCE, WEIGHTINGS):
        cells = []
        for steps in STEPS:
            wanted = (weighting, guidance, steps)
            found = [each for each in lines if (each["weighting"], each["guidance"], each["steps"]) == wanted]
            cells.append(", ".join(f"{each[name]:.3g}" for each in sorted(found, key=lambda each: each["seed"])))
        rows.append(f"| {weighting}, guidance {guidance} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--n", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "numbers.jsonl"
    x, labels = images(arguments.data, "train")
    judge = classifier(arguments.out / "classifier.safetensors", x, labels)
    held, held_labels = images(arguments.data, "test")
    reference, floor = (judge.features(part) for part in (held[arguments.n :], held[: arguments.n]))
    mean, std = x.mean(), x.std()
    z = (x - mean) / std
    means = torch.stack([z[labels == label].mean(0) for label in range(CLASSES)])
    known = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    done = {(each["weighting"], each["seed"], each["steps"], each["guidance"]) for each in known}

    def note(**facts) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")
        print(facts, flush=True)

    if not done:
        right = judge.right(floor, held_labels[: arguments.n])
        fd = frechet_distance(floor, reference)
        note(weighting="test images", seed=None, steps=None, guidance=None, start=0.0, fd=fd, right=right)
    for seed, weighting in itertools.product(SEEDS, WEIGHTINGS):
        weights = arguments.out / f"{weighting}-{seed}.safetensors"
        if not weights.exists():
            write_tensors(weights, trained(weighting, seed, z, labels, arguments.steps).state_dict())
        model = Model(weighting).eval()
        model.load_state_dict(read_tensors(weights))
        start = start_error(model, means)
        for steps, guidance in itertools.product(STEPS, GUIDANCE):
            if (weighting, seed, steps, guidance) in done:
                continue
            found, asked = samples(model, steps, guidance, arguments.n)
            features = judge.features((found * std + mean).clamp(-1, 1))
            right = judge.right(features, asked)
            fd = frechet_distance(features, reference)
            note(weighting=weighting, seed=seed, steps=steps, guidance=guidance, start=start, fd=fd, right=right)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    print(*(table(name, lines) for name in ("fd", "right")), sep="\n\n")


if __name__ == "__main__":
    main()
