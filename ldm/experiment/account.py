"""What a run says of itself: its first lines in the log, `config.yaml`, and `run.json`, with which the report begins."""

from __future__ import annotations

import datetime
import logging
import shlex
import sys
from dataclasses import dataclass

import torch
import yaml
from torch import nn

from ldm import plugins
from ldm.build import Config
from ldm.data.module import DataModule
from ldm.data.source import Source
from ldm.experiment.given import Given
from ldm.files import write_json, write_text
from ldm.model import PARTS, LatentModel
from ldm.run.directory import Journal, RunDirectory
from ldm.run.machine import code_version, device_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """Of one run.

    Fields:
        asked: hash of what was asked for (`ldm.run.directory.asked_for`).
        device: that the run computes on.
    """

    place: RunDirectory
    config: Config
    model: LatentModel
    data: DataModule
    given: Given
    asked: str
    device: torch.device

    def begin(self, flops: int | None) -> None:
        """Write the config down and say what is going to be trained; `flops` is what the prior's network costs."""
        text = yaml.safe_dump(self.given.put_back(self.config), sort_keys=False, allow_unicode=True)
        write_text(self.place.path / "config.yaml", text)
        log.info("run %s: experiment %s, seed %d", self.place.path, self.config["experiment"], self.config["seed"])
        for part in PARTS:
            log.info("%-11s %8.3f M parameters", part, _parameters(getattr(self.model, part)) / 1e6)
        if flops is not None:
            count = sum(map(_parameters, self.model.prior.networks())) / 1e6
            log.info("%-11s %8.3f M parameters, %.3g GFLOP a forward of one latent", "network", count, flops / 1e9)
        self.tell("training")
        log.info("images %s, latents %s", self.model.autoencoder.image_shape, self.model.autoencoder.latent_shape)
        overlap = self.data.overlap()
        if overlap:
            log.warning("%s", overlap)

    def cost(self) -> dict[str, dict[str, int | float] | None]:
        """What the training of each stage took: here or, of a first stage from the store, where it was trained."""
        journal = Journal(self.place.metrics)
        return {stage: journal.cost(stage) or self.model.cost.get(stage) for stage in ("first", "second")}

    def tell(self, status: str, error: Exception | None = None) -> None:
        """Write `run.json`: where the run stands, and the facts that its report begins with."""
        seconds = {row["stage"]: row["seconds"] for row in Journal(self.place.metrics).rows()}
        sources = self.data.sources
        facts = {
            "name": self.place.path.name,
            "experiment": self.config["experiment"],
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "asked": self.asked,
            "status": status,
            **({} if error is None else {"error": f"{type(error).__name__}: {error}"}),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device_name(self.device),
            "code_version": code_version(),
            "plugins": {package: plugins.version(package) for package in plugins.needed(self.config)},
            "seed": self.config["seed"],
            "begun_from": self.given.named(),
            "data": f"{_number(sources['train'])} images to train, {_number(sources['val'])} held out",
            "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
            "cost": self.cost(),
            "parameters": {part: _parameters(getattr(self.model, part)) for part in PARTS},
        }
        write_json(self.place.path / "run.json", facts)


def _number(source: Source) -> str:
    return "streamed" if source.stream is not None else f"{len(source):,}"


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
