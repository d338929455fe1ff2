"""Evaluation: the same held-out examples, seed and weights to every metric; one record a number.

Image i is generated for held-out example i from Random(seed, 0, i): the same images for any batch size and number of ranks,
so an evaluation repeated is the same evaluation.
"""

from __future__ import annotations

import datetime
import logging
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import PositiveInt
from torch import nn

from ldm.build import Config, described
from ldm.data.module import DataModule
from ldm.metric.metric import Examples, Metric
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.run.finished import networks, scale_of
from ldm.run.record import Record
from ldm.run.store import key_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """
    Fields:
        samples: held-out examples to look at, at most as many as there are.
        batch: images at once on each rank.
        seed: of the generated images.
    """

    samples: PositiveInt = 512
    batch: PositiveInt = 64
    seed: int = 0

    def __call__(
        self,
        model: LatentModel,
        data: DataModule,
        metrics: Sequence[Metric],
        facts: dict[str, Any],
        generate: bool = True,
    ) -> list[Record]:
        """Measure on all ranks; `facts` are fields of Record that only the run knows."""
        start, counter = time.monotonic(), _Calls(model)
        model.eval()
        n = min(self.samples, len(data.sources["val"]))
        for rows in self._batches(n):
            examples = self._examples(model, data, rows, generate)
            for metric in metrics:
                metric.add(examples)
        facts = {
            **facts,
            "seconds": round(time.monotonic() - start, 1),
            "device": device_name(next(model.parameters()).device),
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "parameters": sum(p.numel() for p in model.parameters()),
            "split": "val",
            "model": model.weights_hash,
            **{name: model.made_from.get(name) for name in ("config", "images_seen", "begun_from")},
        }
        if generate:
            facts |= _sampling(model, counter.per_sample())
        counter.remove()
        return [Record.of(measurement, facts) for metric in metrics for measurement in metric.measure()]

    def _batches(self, n: int) -> Iterator[list[int]]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        own = list(range(rank, n, world))
        for i in range(0, len(own), self.batch):
            yield own[i : i + self.batch]

    @torch.no_grad()
    def _examples(self, model: LatentModel, data: DataModule, rows: list[int], generate: bool) -> Examples:
        device = next(model.parameters()).device
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in data.items("val", rows).items()}
        random = Random(self.seed, 0, torch.tensor(rows, device=device))
        return Examples(
            real=batch["image"],
            reconstruction=model.reconstruct(batch["image"]),
            generated=model.sample(batch, random) if generate else None,
            captions=batch.get("caption", [""] * len(rows)),
            index=batch["index"],
            paired=bool(model.condition.needs),
        )


def asked_hash(evaluation: Config, metric: Config | None, prior: Config, data: DataModule) -> str:
    """Names what an evaluation is asked for: nodes of a config, how samples are drawn among them, and the images."""
    return key_of([evaluation, metric or {}, prior, data.fingerprint, data.plain.key])


class _Calls:
    """Counts what a sample costs: rows through networks, guidance's second ones and its guide's included."""

    def __init__(self, model: LatentModel):
        self.rows = self.samples = 0
        self.handles = []
        if isinstance(model.prior, Diffusion):
            # Of denoisers, since what torch compiled knows nothing of its hooks.
            self.handles += [each.register_forward_pre_hook(self._count) for each in networks(model.prior)]
            self.handles.append(model.autoencoder.decoder.register_forward_pre_hook(self._decoded))

    def _count(self, module: nn.Module, arguments: tuple) -> None:
        self.rows += len(arguments[0])

    def _decoded(self, module: nn.Module, arguments: tuple) -> None:
        self.samples += len(arguments[0])

    def per_sample(self) -> int | None:
        # Each example is decoded twice: its reconstruction and its sample.
        return round(2 * self.rows / self.samples) if self.samples else None

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _sampling(model: LatentModel, evaluations: int | None) -> dict[str, Any]:
    """How samples were drawn, in fields of Record."""
    prior = model.prior
    if not isinstance(prior, Diffusion):
        return {"sampler": type(prior).__name__.lower()}
    facts = {"steps": prior.steps, "evaluations": evaluations}
    if model.config is None:
        return facts | {"sampler": type(prior.sampler).__name__.lower()}
    config = model.config["prior"]
    words = {name: described(config[name]) for name in ("sampler", "grid")}
    if prior.sampling_schedule is not None:
        words["schedule"] = described(config["sampling_schedule"])
    scale = scale_of(config["guidance"])
    return facts | words | {"guided": described(config["guidance"], leave=("scale",)), "guidance": scale}


def device_name(device: torch.device) -> str:
    world = dist.get_world_size() if dist.is_initialized() else 1
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type.upper()}, {torch.get_num_threads()} threads"
    return f"{name} x {world}" if world > 1 else name


def code_version() -> str | None:
    """The commit, with + where the tree was changed; None where there is no repository."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=10", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain") else "")
