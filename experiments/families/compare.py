"""Priors of several families on one first stage: samples side by side, and a table.

    python -m experiments.families.compare DATA OUT runs/families/*      DATA: Fashion-MNIST, {train,test}.parquet

Each run is a finished one of Fashion-MNIST with labels, all of them on the same first stage. OUT gets picture.png, one row
of 20 samples a family, two of each class, and table.md:

    parameters   of prior and condition, in millions
    updates      of the prior
    fd           Fréchet distance of 1,000 samples, 100 a class, to the 10,000 held-out images, in the features of the
                 classifier of benchmarks/time_to_quality.py, which OUT keeps
    right        the share of the samples that this classifier takes for the class that was asked for
    recall       the share of as many held-out images that are within what the samples cover (Kynkäänniemi et al. 2019,
                 k = 3, in the same features), and the least over classes of that of a class's images by its own 100
                 samples: a class of which a few images are drawn again and again has a low one
    ms           CPU milliseconds of one process for a sample, decoded
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.time_to_quality import CLASSES, features, pixels, trained
from ldm.callback.image_grid import beside
from ldm.metric.distance import frechet_distance
from ldm.metric.precision_recall import precision_recall
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run.load import load, settings_of

SAMPLES, BATCH = 1000, 250


def drawn(model: LatentModel, count: int = SAMPLES) -> tuple[Tensor, float]:
    """Samples (n, 1, h, w) uint8, whose labels go round, and CPU seconds."""
    start, images = time.process_time(), []
    for rows in torch.arange(count).split(BATCH):
        images.append(model.sample({"label": rows % CLASSES}, Random(1, 0, rows)))
    return ((torch.cat(images) + 1) * 127.5).round().to(torch.uint8), time.process_time() - start


def recalls(found: Tensor, real: Tensor, labels: Tensor) -> tuple[float, float]:
    """The recall of all, and the least of a class: of features of samples (n, d), whose classes go round, and of real
    images (n, d) with their labels (n,)."""
    each = []
    for k in range(CLASSES):
        own, theirs = found[torch.arange(len(found)) % CLASSES == k], real[labels == k]
        n = min(len(own), len(theirs))
        each.append(precision_recall(own[:n], theirs[:n], paired=False)["recall"][0])
    return precision_recall(found, real, paired=False)["recall"][0], min(each)


def shown(images: Tensor) -> Tensor:
    """Of images (n, 1, h, w) uint8, whose classes go round, two of each class, in [-1, 1]."""
    two = images[: 2 * CLASSES].view(2, CLASSES, *images.shape[1:]).transpose(0, 1).flatten(0, 1)
    return two / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    images = pixels(asked.data, asked.out)
    network, accuracy = trained(images, asked.out)
    reference = features(network, images["val"])
    lines = ["| prior | parameters, M | updates | fd | right | recall, least of a class | ms |", "| --- " * 7 + "|"]
    rows, wanted = [], torch.arange(SAMPLES) % CLASSES
    for run in asked.runs:
        model = load(str(run), "average", None, torch.device("cpu"))
        samples, seconds = drawn(model)
        rows.append((run.name, shown(samples)))
        found = features(network, samples)
        right = (network[-1](found).argmax(1) == wanted).float().mean().item()
        size = sum(p.numel() for part in (model.prior, model.condition) for p in part.parameters()) / 1e6
        updates = settings_of(run)["second"]["steps"]
        fd = frechet_distance(found, reference)
        of_all, least = recalls(found, reference[:SAMPLES], images["val_label"][:SAMPLES])
        lines.append(
            f"| {run.name} | {size:.2f} | {updates} | {fd:.2f} | {right:.3f} | {of_all:.2f}, {least:.2f} "
            f"| {1e3 * seconds / SAMPLES:.1f} |"
        )
        print(lines[-1], flush=True)
    held_out, labels = images["val"][:SAMPLES], images["val_label"][:SAMPLES]
    real = features(network, images["train"][:SAMPLES])
    right = (network(held_out.float() / 127.5 - 1).argmax(1) == labels).float().mean().item()
    order = images["train_label"].argsort(stable=True)
    order = torch.stack([order[images["train_label"][order] == k][: SAMPLES // CLASSES] for k in range(CLASSES)], 1)
    of_all, least = recalls(features(network, images["train"][order.flatten()]), reference[:SAMPLES], labels)
    lines.append(
        f"| real images | | | {frechet_distance(real, reference):.2f} | {right:.3f} | {of_all:.2f}, {least:.2f} | |"
    )
    order = torch.stack([torch.nonzero(labels == k)[:2, 0] for k in range(CLASSES)], 1).flatten()
    rows.append(("real images", shown(held_out[order])))
    beside(rows, columns=2 * CLASSES, cell=32).picture.save(asked.out / "picture.png", optimize=True)
    text = "\n".join([f"Classifier's held-out accuracy {accuracy:.3f}.", "", *lines]) + "\n"
    (asked.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    with torch.no_grad():
        main()
