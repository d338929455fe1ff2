"""Evaluation: the same held-out examples, seed and weights to every metric; one record a number.

Image i is generated for held-out example i from Random(seed, 0, i): the same images for any batch size and number of ranks,
so an evaluation repeated is the same evaluation.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt, PositiveInt

from ldm.build import Config
from ldm.cost import Spent, counted, spending
from ldm.data.module import DataModule
from ldm.metric.metric import Examples, Metric
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run.drawn import Drawn
from ldm.run.machine import code_version, device_name
from ldm.run.record import Record
from ldm.run.signals import StopFlag
from ldm.run.store import key_of
from ldm.types import Codes, Image, Latent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured: on how many held-out examples, with which random numbers.

    Fields:
        samples: held-out examples to look at, at most as many as there are.
        batch: images at once on each rank.
        seed: of the generated images.
        every: images of training between two evaluations in training (ldm.callback.evaluations); 0 is none.
        every_samples: the samples of those.
    """

    samples: PositiveInt = 512
    batch: PositiveInt = 64
    seed: int = 0
    every: NonNegativeInt = 0
    every_samples: PositiveInt = 256

    def __call__(
        self,
        model: LatentModel,
        data: DataModule,
        metrics: Sequence[Metric],
        facts: dict[str, Any],
        generate: bool = True,
        kept: Path | None = None,
        stop: StopFlag | None = None,
    ) -> list[Record]:
        """Measure on all ranks; `facts` are fields of Record that only the run knows.

        Arguments:
            kept: folder in which latents wait until the end, so that the same evaluation, stopped, goes on.
            stop: looked at between batches; Stopped where a signal came.
        """
        start = time.monotonic()
        model.eval()
        n = min(self.samples, len(data.sources["val"]))
        drawn = None if kept is None else Drawn(kept, key_of([model.weights_hash, facts.get("asked"), self.seed]))
        samples = _Samples(model, self.seed, drawn) if generate else None
        for rows in self._batches(n):
            if stop is not None:
                stop.check()
            if rows:
                examples = self._examples(model, data, rows, samples)
                for metric in metrics:
                    metric.add(examples)
        facts = {
            **facts,
            "seconds": round(time.monotonic() - start + (0.0 if drawn is None else drawn.seconds), 1),
            "device": device_name(model.device),
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "parameters": sum(p.numel() for p in model.parameters()),
            "split": "val",
            "model": model.weights_hash,
            **{
                name: model.made_from.get(name)
                for name in ("config", "images_seen", "begun_from", "returned", "budget", "updates")
            },
        }
        if samples is not None:
            node = None if model.config is None else model.config["prior"]
            way = {
                "prior": type(model.prior).__name__.lower(),
                **model.prior.drawn(node),
                **(facts.pop("drawn", None) or {}),
            }
            facts |= {"drawn": way, "evaluations": samples.evaluations()}
        records = [Record.of(measurement, facts) for metric in metrics for measurement in metric.measure()]
        if drawn is not None and not (dist.is_initialized() and dist.get_rank()):
            drawn.clear()  # after the measuring, for which all ranks have met
        return records

    def _batches(self, n: int) -> Iterator[list[int]]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        own = list(range(rank, n, world))
        for i in range(0, -(-n // world), self.batch):  # as many on every rank, the last perhaps empty
            yield own[i : i + self.batch]

    @torch.no_grad()
    def _examples(self, model: LatentModel, data: DataModule, rows: list[int], samples: _Samples | None) -> Examples:
        device = model.device
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in data.items("val", rows).items()}
        return Examples(
            real=batch["image"],
            reconstruction=model.reconstruct(batch["image"]),
            generated=None if samples is None else samples.of(rows, batch),
            captions=batch.get("caption", [""] * len(rows)),
            index=batch["index"],
            paired=bool(model.condition.needs),
            model=model,
            batch=batch,
            drawing=None if samples is None else samples.spent,
        )


def asked_hash(evaluation: Config, metric: Config | None, prior: Config, data: DataModule) -> str:
    """Names what an evaluation is asked for: nodes of a config, how samples are drawn among them, and the images."""
    asked = {name: value for name, value in evaluation.items() if name not in ("every", "every_samples")}
    return key_of([asked, metric or {}, prior, data.fingerprint, data.plain.key])


class _Samples:
    """The generated images of an evaluation, and what they cost.

    Attributes:
        images: made so far.
        calls: rows that went through networks for them, guidance's second ones and its guide's included.
        spent: what the latest ones took; None where they had been kept.
    """

    def __init__(self, model: LatentModel, seed: int, drawn: Drawn | None):
        self.model, self.seed, self.drawn = model, seed, drawn
        self.images = self.calls = 0
        self.spent: Spent | None = None

    def of(self, rows: list[int], batch: dict[str, Any]) -> Image:
        """Those of the held-out rows of a batch."""
        device = self.model.device
        random = Random(self.seed, 0, torch.tensor(rows, device=device))
        self.spent = None

        def draw() -> tuple[Latent | Codes, int]:
            with counted(self.model.prior.networks()) as calls, spending(device) as self.spent:
                return self.model.sample_latents(batch, random), sum(calls)

        z, calls = draw() if self.drawn is None else self.drawn.of(rows, draw)
        self.images, self.calls = self.images + len(rows), self.calls + calls
        with spending(device) as decoding:
            images = self.model.decode(z.to(device))
        self.spent = None if self.spent is None else self.spent + decoding
        return images

    def evaluations(self) -> int | None:
        """Of a network, for one image; None where the prior has none."""
        return round(self.calls / self.images) if self.calls else None
