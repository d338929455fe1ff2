"""Evaluation: the same held-out examples, seed and weights to every metric; one record a number.

A sample for the caption or label of row i of the reference is drawn from Random(seed, 0, i), and a further one for the same
row by a number behind those of all rows (ldm.run.scene): the same images for any batch size and number of ranks, so an
evaluation repeated is the same evaluation.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt, PositiveInt

from ldm.build import Config
from ldm.cost import Spent, counted, spending
from ldm.data.module import DataModule
from ldm.metric.metric import Examples, Metric
from ldm.metric.scene import InMemory, LabelLaw, Scene
from ldm.model import LatentModel
from ldm.random import Random
from ldm.run.artifacts import Stored
from ldm.run.drawn import Drawn
from ldm.run.machine import code_version, device_name
from ldm.run.record import Record
from ldm.run.scene import Wanted, others, real_images, reference_size, shuffled, wanted
from ldm.run.seen import networks_seen
from ldm.run.signals import StopFlag
from ldm.run.store import Store, key_of
from ldm.types import Codes, Image, Latent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured: on how many examples, against which real images, with which random numbers.

    Fields:
        samples: images to generate, and held-out examples to reconstruct, of these at most as many as there are.
        batch: images at once on each rank.
        seed: of the generated images.
        reference: the split whose real images samples are compared with.
        reference_images: how many of them, or `all`; null is as many as samples, at most all.
        labels: the law of the labels or captions that samples are drawn for: those of the reference images in turn, each label
            equally often (`balanced`), or of random rows of the other split (`sampled`).
        every: images of training between two evaluations in training (ldm.callback.evaluations); 0 is none.
        every_samples: the samples of those.
    """

    samples: PositiveInt = 512
    batch: PositiveInt = 64
    seed: int = 0
    every: NonNegativeInt = 0
    every_samples: PositiveInt = 256
    reference: Literal["val", "train"] = "val"
    reference_images: PositiveInt | Literal["all"] | None = None
    labels: LabelLaw = "reference"

    def check(self, data: DataModule, needs: Sequence[str]) -> None:
        """ValueError where the data do not have what is asked for, of a model whose condition reads `needs`."""
        self._wanted(data, needs, reference_size(data, self.reference, self.reference_images, self.samples))

    def __call__(
        self,
        model: LatentModel,
        data: DataModule,
        metrics: Sequence[Metric],
        facts: dict[str, Any],
        generate: bool = True,
        kept: Path | None = None,
        stop: StopFlag | None = None,
        store: Store | None = None,
    ) -> list[Record]:
        """Measure on all ranks; `facts` are fields of Record that only the run knows.

        Arguments:
            kept: folder in which latents wait until the end, so that the same evaluation, stopped, goes on.
            stop: looked at between batches; Stopped where a signal came.
            store: where what is computed once of real images is kept; None keeps it until the end.
        """
        start = time.monotonic()
        model.eval()
        held_out = shuffled(len(data.sources["val"]))[: self.samples]
        scene, drawn_for = self._scene(model, data, generate, stop, store)
        for metric in metrics:
            metric.begin(scene)
        drawn = None if kept is None else Drawn(kept, key_of([model.weights_hash, facts.get("asked"), self.seed]))
        samples = _Samples(model, self.seed, drawn_for, drawn) if generate else None
        for places in self._batches(len(held_out), self.samples if generate else 0):
            scene.stop()
            if places:
                rows = [held_out[place] for place in places if place < len(held_out)]
                examples = self._examples(model, data, places, rows, samples)
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
            "seen": list(scene.seen) or None,
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

    def _wanted(self, data: DataModule, needs: Sequence[str], size: int) -> Wanted:
        return wanted(data, needs, self.labels, self.reference, size, self.samples)

    def _scene(
        self, model: LatentModel, data: DataModule, generate: bool, stop: StopFlag | None, store: Store | None
    ) -> tuple[Scene, Wanted]:
        size = reference_size(data, self.reference, self.reference_images, self.samples)
        drawn_for = self._wanted(data, model.condition.needs, size)
        reference = real_images(data, self.reference, slice(size))
        assert reference is not None  # a streamed one has no size
        scene = Scene(
            samples=self.samples if generate else 0,
            image_shape=data.image_shape,
            device=model.device,
            reference=reference,
            others=others(data, self.reference, size, self.samples) if generate else None,
            training=real_images(data, "train"),
            held_out=real_images(data, "val"),
            classes=data.label_count if data.sources["train"].stream is None or data.classes else 0,
            labels=drawn_for.law,
            seen=networks_seen(model.made_from),
            artifacts=InMemory() if store is None else Stored(store),
            stop=(lambda: None) if stop is None else stop.check,
        )
        return scene, drawn_for

    def _batches(self, held_out: int, samples: int) -> Iterator[list[int]]:
        """Places of this rank's batches, as many on every rank, the last perhaps empty: first those of held-out examples and of
        the samples beside them, then those of further samples."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for first, behind in ((0, held_out), (held_out, samples)):
            own = list(range(first + rank, behind, world))
            for i in range(0, -(-max(behind - first, 0) // world), self.batch):
                yield own[i : i + self.batch]

    @torch.no_grad()
    def _examples(
        self, model: LatentModel, data: DataModule, places: list[int], rows: list[int], samples: _Samples | None
    ) -> Examples:
        device = model.device
        batch = _on(data.items("val", rows), device) if rows else None
        same = samples is None or (batch is not None and samples.are_of(rows, places))
        drawn_for = batch if same else _on(samples.wanted.batch(data, places), device)
        return Examples(
            real=None if batch is None else batch["image"],
            reconstruction=None if batch is None else model.reconstruct(batch["image"]),
            generated=None if samples is None else samples.of(places, drawn_for),
            captions=drawn_for.get("caption", [""] * len(places)),
            index=torch.tensor(places, device=device) if batch is None else batch["index"],
            paired=same and bool(model.condition.needs),
            model=model,
            batch=batch,
            drawing=None if samples is None else samples.spent,
            place=torch.tensor(places),
            labels=drawn_for.get("label"),
        )


def _on(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def asked_hash(evaluation: Config, metric: Config | None, prior: Config, data: DataModule) -> str:
    """Names what an evaluation is asked for: nodes of a config, how samples are drawn among them, and the images."""
    asked = {name: value for name, value in evaluation.items() if name not in ("every", "every_samples")}
    return key_of([asked, metric or {}, prior, data.fingerprint, data.plain.key])


def record_facts(run: Path, config: Config, data: DataModule, weights: str) -> dict[str, Any]:
    """The fields of Record that no metric and no model knows.

    Arguments:
        run: its directory.
        config: its config, with the nodes by which it is measured and its samples are drawn.
        data: that it is measured on.
        weights: which of the run's, by name.
    """
    return {
        "run": run.name,
        "experiment": config["experiment"],
        "data": data.fingerprint,
        "seed": config["seed"],
        "asked": asked_hash(config["evaluation"], config["metric"], config["prior"], data),
        "weights": weights,
    }


class _Samples:
    """The generated images of an evaluation, and what they cost.

    Attributes:
        images: made so far.
        calls: rows that went through networks for them, guidance's second ones and its guide's included.
        spent: what the latest ones took; None where they had been kept.
    """

    def __init__(self, model: LatentModel, seed: int, wanted: Wanted, drawn: Drawn | None):
        self.model, self.seed, self.wanted, self.drawn = model, seed, wanted, drawn
        self.images = self.calls = 0
        self.spent: Spent | None = None

    def are_of(self, rows: list[int], places: list[int]) -> bool:
        """Whether the samples at these places are drawn for the captions or labels of these held-out rows."""
        own = self.wanted.law in ("reference", None) and self.wanted.split == "val"
        return own and [self.wanted.row(place) for place in places] == rows

    def of(self, places: list[int], batch: dict[str, Any]) -> Image:
        """Those at these places, for the captions or labels of a batch."""
        device = self.model.device
        rows = [self.wanted.number(place) for place in places]
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
