"""What a config describes, done: first stage, latents, prior, evaluation, report; in one directory, on all ranks.

Every step asks first whether it has been done: a first stage and latents are looked up in the store, a stage goes on from
its checkpoint, numbers are not measured twice. So the same command is begin and resume, and a sweep over nine
priors trains one autoencoder.
"""

from __future__ import annotations

import datetime
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import yaml
from rich.console import Console
from torch import nn

from ldm.build import Config, build
from ldm.callback.pictures import Pictures
from ldm.callback.progress import Bar
from ldm.callback.sink import Guarded
from ldm.data.module import DataModule
from ldm.files import write_json, write_text
from ldm.interop.pretrained import pretrained
from ldm.measuring import say
from ldm.model import PARTS, LatentModel, load_weights, write_weights
from ldm.nn.cost import backbone_flops
from ldm.prior.diffusion import Diffusion
from ldm.random import seed_of
from ldm.run import changes, record, report
from ldm.run.checkpoint import Checkpoints
from ldm.run.directory import Journal, RunDirectory
from ldm.run.evaluation import Evaluation, code_version, device_name
from ldm.run.signals import FINISHED, PREEMPTED, StopFlag
from ldm.run.snapshots import Snapshots
from ldm.run.store import Store, key_of
from ldm.settings import check_batch, check_stages, checked
from ldm.stage.first import First
from ldm.stage.latents import cached, statistics
from ldm.stage.launch import agree, rank, ranks, turn
from ldm.stage.recipe import WATCHING
from ldm.stage.second import Second, aligned
from ldm.stage.stage import Stage

log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """`log.txt` of a run; stays open after it, for what is said of how it ended."""


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class Experiment:
    """
    Arguments:
        config: plain and resolved: the keys of conf/config.yaml.
    """

    def __init__(self, config: Config):
        self.config = config | {"autoencoder": dict(config["autoencoder"])}
        checkpoint = self.config["autoencoder"].pop("checkpoint", None)
        self.pretrained = None if checkpoint is None else pretrained(checkpoint)
        if self.pretrained is not None:
            self.config["autoencoder"] = self.pretrained.config(tuple(config["data"]["image_shape"]))
        self.config = checked(self.config)
        self.seed, self.store = self.config["seed"], Store(Path(self.config["store"]))
        self.console = Console()
        self.place: RunDirectory | None = None

    def run(self) -> int:
        """Do what is not done yet; the exit code of the process."""
        self.stop = StopFlag()
        self.stop.install()
        trainer = self._trainer()
        check_batch(self.config, trainer.world_size)
        torch.manual_seed(self.seed)  # the networks' first weights, on all ranks the same
        self.model = LatentModel.build(self.config)  # what does not fit together is found before anything is begun
        check_stages(self.config, self.pretrained is not None, self.model.autoencoder)
        self.alignment = aligned(self.config.get("alignment"), self.model, self.seed)
        with ranks(trainer, self.config):
            self.place = RunDirectory(Path(agree(self._claim)))
            try:
                self._steps()
            except Stopped:
                log.info("stopped with everything saved; name=%s goes on from here", self.place.path.name)
                return PREEMPTED
            finally:
                if rank() == 0:
                    self._held.release()
        return FINISHED

    def _claim(self) -> str:
        self._held = RunDirectory.claim(Path(self.config["runs"]), self.config["name"], self.config["experiment"])
        root = logging.getLogger()
        for old in [each for each in root.handlers if isinstance(each, _LogFile)]:  # of this process's last run
            root.removeHandler(old)
            old.close()
        file = _LogFile(self._held.path / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)
        return str(self._held.path)

    def _steps(self) -> None:
        self.data: DataModule = build(self.config["data"], "data")
        self.data.bad_samples = self.place.path / "bad_samples.jsonl"
        loggers = self.config.get("logger") or {}
        self.sinks = [Guarded(build(node, f"logger.{name}")) for name, node in loggers.items() if rank() == 0]
        agree(self._describe)
        for sink in self.sinks:
            sink.open(self.place.path, self.place.path.name, self.config)
        try:
            self._first_stage()
            self._second_stage()
            self._evaluate()
        finally:
            for sink in self.sinks:
                sink.close()
        if rank() == 0:
            self._conclude()

    def _describe(self) -> None:
        file = self.place.path / "config.yaml"
        if file.exists():
            changes.check(yaml.safe_load(file.read_text(encoding="utf-8")), self.config, self.place.path)
        write_text(file, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        log.info("run %s: experiment %s, seed %d", self.place.path, self.config["experiment"], self.seed)
        for part in PARTS:
            log.info("%-11s %8.3f M parameters", part, _parameters(getattr(self.model, part)) / 1e6)
        if isinstance(self.model.prior, Diffusion):
            backbone = self.model.prior.denoiser.backbone
            gflops = backbone_flops(backbone, self.model.prior.latent_shape, self.model.condition.shape) / 1e9
            words = "%-11s %8.3f M parameters, %.3g GFLOP a forward of one latent"
            log.info(words, "backbone", _parameters(backbone) / 1e6, gflops)
        self._tell("training")
        log.info("images %s, latents %s", self.model.autoencoder.image_shape, self.model.autoencoder.latent_shape)

    def _tell(self, status: str) -> None:
        """`run.json`: the facts that the report begins with."""
        seconds = {row["stage"]: row["seconds"] for row in Journal(self.place.metrics).rows()}
        sources = self.data.sources
        facts = {
            "name": self.place.path.name,
            "experiment": self.config["experiment"],
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "status": status,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device_name(self._trainer().strategy.root_device),
            "code_version": code_version(),
            "seed": self.seed,
            "data": f"{len(sources['train']):,} images to train, {len(sources['val']):,} held out",
            "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
            "parameters": {part: _parameters(getattr(self.model, part)) for part in PARTS},
        }
        write_json(self.place.path / "run.json", facts)

    # First stage

    def _first_stage(self) -> None:
        autoencoder = self.model.autoencoder
        if self.pretrained is not None:
            self.pretrained.load_into(autoencoder)
        elif self.config.get("first") and any(p.requires_grad for p in autoencoder.parameters()):
            load_weights(autoencoder, self._stored_first() / "model.safetensors")
        autoencoder.requires_grad_(False).eval()

    def _stored_first(self) -> Path:
        """The first stage of this data, model, loss, recipe and seed: from the store, or trained and put there."""
        made_from = {part: self.config[part] for part in ("autoencoder", "loss", "seed")}
        made_from |= {
            "first": {name: value for name, value in self.config["first"].items() if name not in WATCHING},
            "precision": self.config["trainer"].get("precision"),
            "data": self.data.fingerprint,
            "transform": self.data.transform_key,
            "batch": self.data.batch_size,
        }
        key = key_of(made_from)
        with turn(self.store.lock("autoencoder", key)):
            found = agree(lambda: self.store.find("autoencoder", key))
            if found is not None:
                log.info("first stage found in the store: %s", found)
                return found
            torch.manual_seed(seed_of(self.seed, "loss"))  # a critic's first weights
            loss = build(self.config["loss"], "loss")
            stage = First(self.model.autoencoder, loss, build(self.config["first"], "first"), self.seed)
            self._fit(stage)

            def publish() -> Path:
                with stage.average.applied():
                    weights = self.store.workplace("autoencoder", key) / "model.safetensors"
                    write_weights(self.model.autoencoder.state_dict(), weights)
                return self.store.publish("autoencoder", key, made_from)

            return agree(publish)

    # Second stage

    def _second_stage(self) -> None:
        autoencoder = self.model.autoencoder.to(self._trainer().strategy.root_device)
        if self.config["cache_latents"]:
            self.data = cached(autoencoder, self.data, self.store, self.alignment)
        autoencoder.set_statistics(*statistics(autoencoder, self.data))
        if self.config.get("second"):
            self.model.condition.fit(self.data.captions())
            if any(p.requires_grad for p in self.model.prior.parameters()):
                stage = Second(self.model, build(self.config["second"], "second"), self.seed, self.alignment)
                self._fit(stage)
                agree(lambda: self.model.save(self.place.model, self.config, "raw"))
                stage.average.keep()
        agree(lambda: self.model.save(self.place.model, self.config))

    # Training of either

    def _trainer(self, *callbacks: L.Callback, players: int = 1) -> L.Trainer:
        node = {"_target_": "lightning.pytorch.trainer.Trainer", **self.config["trainer"]}
        if dist.is_initialized() and players > 1:
            # In a game each backward pass leaves the other side's parameters without a gradient.
            node.setdefault("strategy", "ddp_find_unused_parameters_true")
        return build(
            node,
            "trainer",
            callbacks=list(callbacks),
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=None if self.place is None else str(self.place.path),
        )

    def _fit(self, stage: Stage) -> None:
        """Train a stage to its end, from where it stands; Stopped if a signal came first."""
        checkpoints = Checkpoints(self.place.checkpoints / stage.name)
        snapshots = Snapshots(self.place.snapshots / stage.name)
        stage.attach(checkpoints, snapshots, Journal(self.place.metrics), self.stop, self.sinks)
        pictures = Pictures(self.place.samples, self.model, self.data, self.sinks)
        trainer = self._trainer(Bar(self.console), pictures, players=len(stage.players()))
        try:
            trainer.fit(stage, datamodule=self.data)
        finally:
            stage.rescue()
        if stage.stopped:
            raise Stopped

    # What came of it

    def _evaluate(self) -> None:
        if record.read(self.place.records):
            return
        model = self.model.to(self._trainer().strategy.root_device)
        metrics = build(self.config["metric"] or {}, "metric")
        evaluation: Evaluation = build(self.config["evaluation"], "evaluation")
        facts: dict[str, Any] = {
            "run": self.place.path.name,
            "experiment": self.config["experiment"],
            "data": self.data.fingerprint,
            "seed": self.seed,
            "weights": "averaged",
            "images_seen": Journal(self.place.metrics).images_seen("second"),
        }
        records = evaluation(model, self.data, list(metrics.values()), facts, generate=bool(self.config.get("second")))
        if rank() == 0:
            record.write(self.place.records, *records)

    def _conclude(self) -> None:
        self._tell("finished")
        report.write(self.place.path)
        say(record.read(self.place.records))
        log.info("everything is in %s; look at %s", self.place.path, self.place.report)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
