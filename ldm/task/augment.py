"""Samples as training data: n of each class, written as an `imagefolder` of Hugging Face's `datasets`, with where they are from.

    imagefolder/CLASS/00000.png    an image
    imagefolder/metadata.jsonl     of each: `file_name`, `label` (the class's name), `generated` (true), `seed`, `row`

so that `load_dataset("imagefolder", data_dir=...)` reads them, and `data=folder data.root=.../imagefolder` here. A classifier
that is trained on samples beside few real images may gain (Azizi et al. 2023); a generative model that is trained on samples of
its like degrades (Alemohammad et al. 2023). Hence `generated` in every line.

What makes it fail: samples of the wrong class, which are wrong labels (`label_accuracy` of an evaluation says how many); samples
alike, which add nothing; the model has seen the training images alone, and cannot know more of the classes than they say.

Sources:
    Azizi et al., Synthetic Data from Diffusion Models Improves ImageNet Classification (2023), arXiv 2304.08466
    Alemohammad et al., Self-Consuming Generative Models Go MAD (2023), arXiv 2307.01850
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from pydantic import PositiveInt

from ldm.condition.label import Label
from ldm.files import whole_file, write_text
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.base import Answer, Found, Task
from ldm.task.tools.conditions import check_whole, class_named

_SAFE = re.compile(r"[^\w .-]+")  # what no file system minds


class Augment(Task):
    """Samples of each class as an imagefolder, each with its seed and row.

    Arguments:
        n: of each class; of a model without classes, of all.
    """

    takes = 0

    def __init__(self, n: PositiveInt = 100):
        self.n, self._classes = n, list[str]()

    def check(self, model: LatentModel) -> None:
        if "caption" in model.condition.needs:
            raise ValueError(
                "task=augment draws by class, and this model is conditioned on caption: draw by captions with ldm sample "
                "prompts=FILE n=N"
            )
        check_whole(model)
        own = model.condition.find(Label)
        self._classes = [] if own is None else [class_named(model, label) for label in range(own.classes)]

    def count(self, model: LatentModel, images: int) -> int:
        return self.n * max(len(self._classes), 1)

    def shown(self, rows: int, most: int) -> list[int]:
        """Some of every class."""
        count = min(rows, most)
        return [place * rows // count for place in range(count)]

    def name(self, row: int) -> str:
        return f"{self._classes[row // self.n]} {row % self.n}" if self._classes else f"{row}"

    def __call__(self, model: LatentModel, batch: Mapping[str, Any], random: Random) -> Answer:
        rows, given = batch["index"], {"index": batch["index"]}
        if self._classes:
            given["label"] = rows // self.n
        seeds = torch.full_like(rows, random.seed)
        return Answer({"sample": model.sample(given, random)}, arrays={"seed": seeds})

    def write(self, model: LatentModel, found: Found, folder: Path) -> list[Path]:
        place, lines = folder / "imagefolder", []
        for row, seed in enumerate(found.arrays["seed"].tolist()):
            named = self._classes[row // self.n] if self._classes else None
            inside = "" if named is None else f"{_SAFE.sub('-', named)}/"
            name = f"{inside}{row % self.n:05d}.png"
            with whole_file(place / name) as temporary:
                PIL.Image.fromarray(found.pictures(row)["sample"].permute(1, 2, 0).numpy()).save(temporary, "PNG")
            label = {} if named is None else {"label": named}
            lines.append(json.dumps({"file_name": name, **label, "generated": True, "seed": seed, "row": row}))
        write_text(place / "metadata.jsonl", "\n".join(lines) + "\n")
        return [place]
