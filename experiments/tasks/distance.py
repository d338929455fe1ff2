"""How far pictures of a task are from real ones: python -m experiments.tasks.distance RUN STORE FOLDER=PICTURE ...

FOLDER is what `ldm apply` has written, PICTURE which of a row's pictures, as `filled` or `made`. They are compared with all
held-out images of RUN's data, by the Fréchet distance in the features of the data's own classifier (ldm.metric.classifier), which
STORE has or is given. FOLDER=given is the distance of the real images themselves, the least that so few can have.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ldm.build import build
from ldm.data.module import DataModule
from ldm.metric.classifier import OwnClassifier
from ldm.metric.frechet import frechet_distance
from ldm.metric.metric import Metric
from ldm.metric.scene import Scene
from ldm.model import LatentModel
from ldm.run.evaluation import Evaluation
from ldm.run.load import settings_of
from ldm.run.store import Store


class Seen(Metric):
    """The scene of an evaluation, of which nothing is measured."""

    scene: Scene

    def begin(self, scene: Scene) -> None:
        self.scene = scene

    def add(self, examples) -> None:
        pass

    def measure(self) -> list:
        return []


def pictures(folder: Path, name: str) -> Tensor:
    """Those of this name, (n, 3, h, w) in [-1, 1]; SystemExit where there are not two."""
    files = sorted(folder.glob(f"*-{name}.png"))
    if len(files) < 2:
        raise SystemExit(f"{folder}: two pictures NUMBER-{name}.png at least are wanted, and there are {len(files)}")
    pixels = np.stack([np.array(PIL.Image.open(file).convert("RGB")) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def main(run: str, store: str, places: list[str]) -> None:
    config, seen = settings_of(run), Seen()
    data: DataModule = build(config["data"], "data")
    evaluation = Evaluation(samples=2, reference_images="all")
    evaluation(LatentModel.load(run), data, [seen], {}, generate=False, store=Store(Path(store)))
    network, reference = OwnClassifier().learn(seen.scene), seen.scene.reference
    parts = [range(i, min(i + 250, len(reference))) for i in range(0, len(reference), 250)]
    real = torch.cat([network(reference.batch(part)["image"]) for part in parts])
    for place in places:
        folder, _, name = place.rpartition("=")
        x = pictures(Path(folder), name)
        print(f"{place}: fd {frechet_distance(network(x), real):.3f} (n = {len(x)})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
