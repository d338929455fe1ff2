"""How far pictures of a task are from those given: python -m experiments.tasks.distance RUN STORE FOLDER=PICTURE ...

FOLDER is what `ldm apply` has written, PICTURE which of a row's pictures, as `filled` or `made`. They are compared with what was
`given` of the same rows, by the Fréchet distance in the features of the classifier (ldm.metric.classifier) of RUN's data, which
STORE has or is given. The distance of a few images to all held-out ones says little: 64 real ones are as far from those (3.5 of
Fashion-MNIST) as 64 of a good model. To the very images that were given theirs is 0.
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
    evaluation = Evaluation(samples=2)
    evaluation(LatentModel.load(run), data, [seen], {}, generate=False, store=Store(Path(store)))
    network = OwnClassifier().learn(seen.scene)
    for place in places:
        folder, _, name = place.rpartition("=")
        made, given = (network(pictures(Path(folder), each)) for each in (name, "given"))
        print(f"{place}: fd {frechet_distance(made, given):.3f} (n = {len(made)})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
