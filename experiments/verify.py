"""One number of a run computed once more by other code: python -m experiments.verify RUN METRIC [data.root=DIR ...]

METRIC is one of these; further words are of the run's data, for instance where they lie now.

    psnr            10 log10(255^2 / mean squared error) of each held-out image and its reconstruction in 8 bits, by torch
    fd_classifier   the samples and all real images through the stored classifier, and the moments of their features through
                    torch-fidelity's functions of FID
    bits_per_dim    of a flow of logits: the density of p = a + (1 - 2 a) (level + u) / 256 by the change of variables, with the
                    same u; the prior's log-density is all that is taken from the library

The images are drawn by the run's own evaluation. Both numbers are printed; the exit code is 1 where they differ by a thousandth.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ldm.build import build, merged
from ldm.data.module import DataModule
from ldm.metric.classifier import OwnClassifier
from ldm.metric.metric import Examples, Metric
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run import record
from ldm.run.evaluation import Evaluation
from ldm.run.load import settings_of
from ldm.run.store import Store

METRICS = ("psnr", "fd_classifier", "bits_per_dim")


class Kept(Metric):
    """The images of an evaluation, as they come."""

    def __init__(self) -> None:
        self.examples: list[Examples] = []

    def add(self, examples: Examples) -> None:
        self.examples.append(examples)

    def measure(self) -> list:
        return []


def levels(x: Tensor) -> Tensor:
    """Images in [-1, 1] as levels 0, ..., 255."""
    return ((x.double() + 1) * 127.5).round().clamp(0, 255)


def psnr(kept: Kept) -> float:
    """In dB."""
    pairs = [each for each in kept.examples if each.real is not None]
    errors = torch.cat([(levels(e.real) - levels(e.reconstruction)).square().flatten(1).mean(1) for e in pairs])
    return (10 * (255**2 / errors).log10()).mean().item()


def fd_classifier(kept: Kept) -> float:
    """Of all samples from all images of the reference."""
    network, reference = OwnClassifier().learn(kept.scene), kept.scene.reference
    found = torch.cat([network(each.generated) for each in kept.examples]).double()
    parts = [range(i, min(i + 250, len(reference))) for i in range(0, len(reference), 250)]
    real = torch.cat([network(reference.batch(part)["image"]) for part in parts]).double()
    moments = (fid_features_to_statistics(found), fid_features_to_statistics(real))
    return fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"]


def bits_per_dim(kept: Kept, model: LatentModel) -> float:
    """-log2 of the probability of a level, a number of the image."""
    margin, mean, std = model.autoencoder.bottleneck.margin, model.autoencoder.latent_mean, model.autoencoder.latent_std
    found = []
    for each in kept.examples:
        x, size = levels(each.real), each.real[0].numel()
        u = Random(0, 0, each.index).uniform("dequantisation", tuple(x.shape[1:])).double()
        p = margin + (1 - 2 * margin) * (x + u) / 256
        z = ((p / (1 - p)).log() - mean.double().view(1, -1, 1, 1)) / std.double().view(1, -1, 1, 1)
        c = model.condition(each.batch)
        slope = math.log1p(-2 * margin) - p.log() - (1 - p).log() - std.double().log().view(1, -1, 1, 1)
        log_p = model.prior.log_prob(z.float(), c, Random(0, 0, each.index)).double() + slope.flatten(1).sum(1)
        found.append((size * math.log(256) - log_p) / (size * math.log(2)))
    return torch.cat(found).mean().item()


@torch.no_grad()
def by_hand(run: Path, metric: str, words: dict[str, str]) -> tuple[float, float]:
    """The newest number of the run's records, and ours."""
    config = settings_of(run)
    told = [each for each in record.read(run / "records.jsonl") if each.metric == metric]
    if metric not in METRICS or not told:
        raise SystemExit(f"{metric}: one of {', '.join(METRICS)} of which {run} has a record is wanted")
    data: DataModule = build(merged(config["data"], words), "data")
    evaluation: Evaluation = build(config["evaluation"] | {"samples": told[-1].n}, "evaluation")
    model, kept = LatentModel.load(run), Kept()
    generate = metric == "fd_classifier"
    evaluation(model, data, [kept], {}, generate=generate, store=Store(Path(config["store"])))
    ours = {"psnr": lambda: psnr(kept), "fd_classifier": lambda: fd_classifier(kept)}
    return told[-1].value, ours.get(metric, lambda: bits_per_dim(kept, model))()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    given = {key: value for key, _, value in (word.removeprefix("data.").partition("=") for word in sys.argv[3:])}
    theirs, own = by_hand(Path(sys.argv[1]), sys.argv[2], given)
    print(f"{sys.argv[2]}: {theirs:.6g} in the records, {own:.6g} by hand")
    sys.exit(abs(own - theirs) > 1e-3 * abs(theirs))
