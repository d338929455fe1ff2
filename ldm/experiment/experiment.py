"""What a config describes, done: first stage, latents, prior, evaluation, report; in one directory, on all ranks.

Every step asks first whether it has been done: a first stage and latents are looked up in the store, a stage goes on from
its checkpoint, numbers are not measured twice. So the same command is begin and resume, and a sweep over nine
priors trains one autoencoder. What has been done counts only as far as it was made from what the config says now
(ldm.stage.provenance): a run goes on, is made anew from where it differs, or is refused before anything is changed.
"""

from __future__ import annotations

import datetime
import logging
import shlex
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import yaml
from rich.console import Console
from torch import nn

from ldm.build import Config, ConfigError, build
from ldm.callback import watchers
from ldm.callback.pictures import Pictures, drop_pictures
from ldm.callback.progress import Bar
from ldm.data.module import DataModule
from ldm.data.source import Source
from ldm.experiment.check import check_batch, check_data, check_stages, check_train, checked
from ldm.experiment.classes import fitted, provisional
from ldm.files import write_json, write_text
from ldm.interop.pretrained import pretrained
from ldm.logger.sink import Guarded
from ldm.logger.wandb import swept
from ldm.model import PARTS, LatentModel, load_weights, write_weights
from ldm.random import seed_of
from ldm.run import record, report
from ldm.run.checkpoint import Checkpoints
from ldm.run.directory import Journal, RunDirectory, asked_for
from ldm.run.evaluation import Evaluation, asked_hash
from ldm.run.footprint import Footprint
from ldm.run.machine import code_version, device_name
from ldm.run.needs import Needs
from ldm.run.record import say
from ldm.run.signals import FAILED, FINISHED, PREEMPTED, Diverged, StopFlag, Stopped
from ldm.run.snapshots import Snapshots
from ldm.run.store import Store, key_of
from ldm.stage import finetune, provenance
from ldm.stage.feed import Feed
from ldm.stage.first import First
from ldm.stage.footprint import of_stage
from ldm.stage.latents import cache_size, cached, pays, statistics, weights_key
from ldm.stage.launch import agree, placed, rank, ranks, remember, restarted, turn
from ldm.stage.provenance import History, Plan
from ldm.stage.second import Second, aligned
from ldm.stage.sharding import FullyShard, made_whole
from ldm.stage.stage import Stage
from ldm.tensors import size_of

log = logging.getLogger(__name__)

_MANY = 10_000  # lines of the log that are kept until there is a directory


class _LogFile(logging.FileHandler):
    """`log.txt` of a run; stays open after it, for what is said of how it ended."""


class Experiment:
    """A run: what of its steps is not done yet is done, in one directory, on all ranks.

    Arguments:
        config: plain and resolved: the keys of conf/config.yaml.
    """

    def __init__(self, config: Config):
        prior, self.wanted = finetune.wanted(config["prior"])
        self.config = config | {"autoencoder": dict(config["autoencoder"]), "prior": prior}
        self.checkpoint = self.config["autoencoder"].pop("checkpoint", None)
        self.pretrained = None if self.checkpoint is None else pretrained(self.checkpoint)
        self.trains_on = check_train(self.config, self.config["autoencoder"].pop("train", None), self.checkpoint)
        if self.pretrained is not None:
            self.config["autoencoder"] = self.pretrained.config(tuple(config["data"]["image_shape"]))
        self.config = checked(self.config)
        self.seed = self.config["seed"]
        self.console = Console()
        self.place: RunDirectory | None = None
        self._asked = asked_for(config)
        self._begun = False  # whether this call has changed anything in the run's directory

    def run(self) -> int:
        """Do what is not done yet; the exit code of the process."""
        self.stop = StopFlag()
        self.stop.install()
        trainer = self._trainer()
        check_batch(self.config, trainer.world_size)
        self._early = MemoryHandler(_MANY, flushLevel=logging.CRITICAL + 1)
        logging.getLogger().addHandler(self._early)
        try:
            self._prepare()
        finally:
            logging.getLogger().removeHandler(self._early)
        with ranks(trainer, self.config["rank_timeout"], self.stop):
            self.place = RunDirectory(Path(agree(self._claim)))
            self.store = Store(Path(self.config["store"]), Needs(self.place.path))
            try:
                self._steps()
            except Stopped:
                self._ended("stopped")
                log.info("stopped with everything saved; name=%s goes on from here", self.place.path.name)
                return PREEMPTED
            except Exception as error:
                self._ended("diverged" if isinstance(error, Diverged) else "failed", error)
                raise
            finally:
                if rank() == 0:
                    self._held.release()
        return FINISHED

    def _prepare(self) -> None:
        """Model, data and metrics: what does not fit together is found before a directory is made, and what needs no data
        before they are looked for."""
        self._build_model(provisional(self.config))
        self.data: DataModule = build(self.config["data"], "data")
        whole = fitted(self.config, self.data)
        if whole != self.config:
            self.config = whole
            self._build_model(whole)
        self.metrics = build(self.config["metric"] or {}, "metric")
        check_data(self.model.condition, self.metrics, self.data)
        watchers.check(self.config["callback"])
        if self.pretrained is not None:
            self.pretrained.load_into(self.model.autoencoder)
        self.given = weights_key(self.model.autoencoder) if self.pretrained is not None else None
        self.origin = None if self.wanted is None else finetune.begin(self.model, self.wanted)

    def _build_model(self, config: Config) -> None:
        torch.manual_seed(self.seed)  # the networks' first weights, on all ranks the same
        self.model = LatentModel.build(config)
        check_stages(self.config, self.pretrained is not None, self.model.autoencoder)
        self.flops = self.model.prior.flops()  # which finds a network that does not fit before anything is trained
        self.alignment = aligned(self.config.get("alignment"), self.model, self.seed)

    def _claim(self) -> str:
        name = self.config["name"] or swept() or restarted()
        self._held = RunDirectory.claim(Path(self.config["runs"]), name, self.config["experiment"])
        remember(self._held.path.name)
        root = logging.getLogger()
        for old in [each for each in root.handlers if isinstance(each, _LogFile)]:  # of this process's last run
            root.removeHandler(old)
            old.close()
        file = _LogFile(self._held.path / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)
        self._early.setTarget(file)
        self._early.close()  # what was said before there was a directory
        return str(self._held.path)

    def _steps(self) -> None:
        self.first, self.second = agree(self._plans)
        self._begun = True
        self.data.bad_samples = self.place.path / "bad_samples.jsonl"
        loggers = self.config["logger"]
        self.sinks = [Guarded(build(node, f"logger.{name}")) for name, node in loggers.items() if rank() == 0]
        agree(self._describe)
        for sink in self.sinks:
            sink.open(self.place.path, self.place.path.name, self._whole_config())
        code = FAILED
        try:
            self._first_stage()
            self._second_stage()
            self._evaluate()
            if rank() == 0:
                self._conclude()
            code = FINISHED
        except Stopped:
            code = PREEMPTED
            raise
        finally:
            for sink in self.sinks:
                sink.close(code)

    # What is there, and what of it stands

    def _plans(self) -> tuple[Plan, Plan]:
        """How both stages come to be; ConfigError where one may not go on. What is to be made anew is removed then."""
        first = self._decided("first", self._first_plan())
        weights = None if self.trains_on else self.given
        second = self._decided("second", self._second_plan(first.history, weights))
        if self.origin is not None:
            self.origin.check(self._known_first(first))
        for stage, plan in (("first", first), ("second", second)):
            if plan.anew:
                log.info("the %s stage is made anew", stage)
                self._checkpoints(stage).clear()
                self._snapshots(stage).clear()
                Journal(self.place.metrics).rewind(stage, 0)
                drop_pictures(self.place.samples, stage, after=0)
            if plan.told:
                log.warning(
                    "the %s stage goes on after update %d with other settings: %s. That is not what they make from the "
                    "start, which %s.again=true makes",
                    *(stage, plan.updates, provenance.shown(plan.told), stage),
                )
        return first, second

    def _first_plan(self) -> Plan:
        there = provenance.begun(self._checkpoints("first"))
        if self.pretrained is not None and not self.trains_on:
            return provenance.plan("first", there, {"autoencoder": {"checkpoint": self.given}})
        if not self._trains_first():
            return provenance.plan("first", there, {"autoencoder": self.config["autoencoder"]})
        return provenance.plan("first", there, provenance.of_first(self.config, self.data, self.given))

    def _second_plan(self, first: History, weights: str | None) -> Plan:
        begun_from = None if self.origin is None else self.origin.settings()
        settings = provenance.of_second(self.config, self.data, first, weights, begun_from)
        return provenance.plan("second", provenance.begun(self._checkpoints("second")), settings)

    def _trains_first(self) -> bool:
        if self.pretrained is not None and not self.trains_on:
            return False
        return bool(self.config.get("first")) and any(p.requires_grad for p in self.model.autoencoder.parameters())

    def _known_first(self, first: Plan) -> str | None:
        """The hash of the first stage that there will be; None where it is still to be trained."""
        if not self._trains_first():
            return weights_key(self.model.autoencoder)
        found = self.store.find("autoencoder", key_of(first.history))
        return None if found is None else self.store.description(found)["weights"]

    def _trains_second(self) -> bool:
        return bool(self.config.get("second")) and any(p.requires_grad for p in self.model.prior.parameters())

    def _decided(self, stage: str, plan: Plan) -> Plan:
        """The plan, or that of a new beginning where this is asked for; ConfigError where the stage may not go on."""
        if (self.config.get(stage) or {}).get("again", False):
            return plan.again()
        if plan.refused:
            raise ConfigError(
                f"{self.place.path}: the {stage} stage ({plan.updates} updates) was made with other words: "
                f"{provenance.shown(plan.refused)}. Take those, or another name=, or {stage}.again=true to make it anew"
            )
        return plan

    def _pruned(self, stage: str) -> bool:
        """Whether of a stage that was trained here the weights alone are left, in `model/`."""
        return self._checkpoints(stage).pruned()

    # What is said of a run

    def _whole_config(self) -> Config:
        """The config with the words that say what it was begun from."""
        config = dict(self.config)
        if self.checkpoint is not None:
            train = {"train": True} if self.trains_on else {}
            config["autoencoder"] = config["autoencoder"] | {"checkpoint": str(self.checkpoint)} | train
        if self.wanted is not None:
            config["prior"] = config["prior"] | self.wanted.words()
        return config

    def _begun_from(self) -> str | None:
        """The weights that training began from, by their hashes; None where all were drawn."""
        parts = [f"autoencoder {self.given}"] if self.trains_on else []
        parts += [] if self.origin is None else [f"prior {self.origin.model} ({self.origin.wanted.weights})"]
        return ", ".join(parts) or None

    def _describe(self) -> None:
        text = yaml.safe_dump(self._whole_config(), sort_keys=False, allow_unicode=True)
        write_text(self.place.path / "config.yaml", text)
        self.store.needs.begin()
        log.info("run %s: experiment %s, seed %d", self.place.path, self.config["experiment"], self.seed)
        for part in PARTS:
            log.info("%-11s %8.3f M parameters", part, _parameters(getattr(self.model, part)) / 1e6)
        if self.flops is not None:
            count = sum(map(_parameters, self.model.prior.networks())) / 1e6
            log.info("%-11s %8.3f M parameters, %.3g GFLOP a forward of one latent", "network", count, self.flops / 1e9)
        self._tell("training")
        log.info("images %s, latents %s", self.model.autoencoder.image_shape, self.model.autoencoder.latent_shape)
        overlap = self.data.overlap()
        if overlap:
            log.warning("%s", overlap)
        if self._is_left("first") or self._is_left("second"):
            footprint = self._footprint()
            log.info("%s", footprint.said(self.config["keep"]))
            footprint.check_room(self.place.path, self.store.root)

    def _is_left(self, stage: str) -> bool:
        """Whether updates of a stage are to be made here; the store may still have the first."""
        plan, trains = {"first": (self.first, self._trains_first()), "second": (self.second, self._trains_second())}[
            stage
        ]
        return trains and plan.updates < self.config[stage]["steps"]

    def _footprint(self) -> Footprint:
        """What will lie on disk when both stages have been trained."""
        model, stages, shared = self.model, [], {"first stage": 0, "latents": 0}
        weights = None
        if not self._trains_first():
            weights = weights_key(model.autoencoder)
        else:
            found = self.store.find("autoencoder", key_of(self.first.history))
            if found is None:
                shared["first stage"] = size_of(model.autoencoder.state_dict())
            else:
                weights = self.store.description(found)["weights"]
            if found is None or self.first.updates:
                first = self._new_first()
                trained = {"autoencoder": first.autoencoder, "loss": first.loss}
                stages.append(of_stage(trained, {"autoencoder": first.autoencoder}, first.recipe, self.first.history))
        if self._trains_second():
            networks = {"condition": model.condition, "prior": model.prior}
            along = {} if self.alignment is None else {"alignment": self.alignment}
            recipe = build(self.config["second"], "second")
            stages.append(of_stage(networks | along, networks, recipe, self.second.history))
            if self._caches():
                shared["latents"] = cache_size(
                    *(model.autoencoder, self.data, self.store, weights, self.alignment, model.prior.reads)
                )
        own = {
            "checkpoints": sum(each.checkpoints for each in stages),
            "snapshots": sum(each.snapshots for each in stages),
            "model": size_of(model.state_dict()) * (2 if self._trains_second() else 1),
        }
        return Footprint(own, shared, max(each.checkpoint for each in stages) if stages else 0)

    def _tell(self, status: str, error: Exception | None = None) -> None:
        """`run.json`: the facts that the report begins with."""
        seconds = {row["stage"]: row["seconds"] for row in Journal(self.place.metrics).rows()}
        sources = self.data.sources
        facts = {
            "name": self.place.path.name,
            "experiment": self.config["experiment"],
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "asked": self._asked,
            "status": status,
            **({} if error is None else {"error": f"{type(error).__name__}: {error}"}),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device_name(self._trainer().strategy.root_device),
            "code_version": code_version(),
            "seed": self.seed,
            "begun_from": self._begun_from(),
            "data": f"{_number(sources['train'])} images to train, {_number(sources['val'])} held out",
            "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
            "parameters": {part: _parameters(getattr(self.model, part)) for part in PARTS},
        }
        write_json(self.place.path / "run.json", facts)

    def _ended(self, status: str, error: Exception | None = None) -> None:
        """Leave how a run ended, and a report of what there is; of one that was refused nothing is touched."""
        if rank() == 0 and self._begun:
            self._tell(status, error)
            report.write(self.place.path)

    # First stage

    def _first_stage(self) -> None:
        autoencoder = self.model.autoencoder
        if self._pruned("first"):
            load_weights(autoencoder, self.place.model / "model.safetensors", "autoencoder.")
        elif self._trains_first():
            found = self._stored_first()
            load_weights(autoencoder, found / "model.safetensors")
            if weights_key(autoencoder) != self.store.description(found)["weights"]:
                raise ValueError(
                    f"{found} is damaged: its weights are not those that were put there; delete the folder"
                )
        autoencoder.requires_grad_(False).eval()

    def _stored_first(self) -> Path:
        """The first stage of this history: from the store, or trained and put there."""
        key = key_of(self.first.history)
        with turn(self.store.lock("autoencoder", key)):
            found = agree(lambda: self.store.find("autoencoder", key))
            if found is not None:
                log.info("first stage found in the store: %s", found)
                return found
            stage = self._new_first()
            self._fit(stage, self.first)

            self.first = Plan(stage.updates, stage.history)  # as planned, unless a damaged checkpoint was passed over
            return agree(lambda: self._publish(stage))

    def _new_first(self) -> First:
        torch.manual_seed(seed_of(self.seed, "loss"))  # a critic's first weights
        loss = build(self.config["loss"], "loss")
        return First(self.model.autoencoder, loss, build(self.config["first"], "first"), self.seed)

    def _publish(self, stage: First) -> Path:
        key = key_of(stage.history)
        with stage.average.applied():
            weights = self.store.workplace("autoencoder", key) / "model.safetensors"
            write_weights(self.model.autoencoder.state_dict(), weights)
            made_from = {"history": stage.history, "weights": weights_key(self.model.autoencoder)}
        return self.store.publish("autoencoder", key, made_from)

    # Second stage

    def _second_stage(self) -> None:
        autoencoder = self.model.autoencoder.to(self._trainer().strategy.root_device)
        weights = weights_key(autoencoder)
        self.second = agree(lambda: self._decided("second", self._second_plan(self.first.history, weights)))
        if self._pruned("second"):
            self._take_finished()
            return
        if self._caches():
            reads = self.model.prior.reads
            self.data = cached(autoencoder, self.data, self.store, self.alignment, self.stop, reads)
        kept = None if self.origin is None else self.origin.whitening(weights)
        if kept is not None or self.model.prior.reads == "latents":  # codes are not whitened
            autoencoder.set_statistics(*(kept or statistics(autoencoder, self.data, self.stop)))
        self.model.made_from = self._made_from(self.second.history)
        if self.config.get("second") and (self.origin is None or not self.origin.tokens):
            self.model.condition.fit(self.data.captions())
        if self._trains_second():
            stage = Second(self.model, build(self.config["second"], "second"), self.seed, self.alignment)
            self._fit(stage, self.second)
            self.model.made_from = self._made_from(stage.history)
            raw = made_whole(self.model)
            agree(lambda: raw.save(self.place.model, self.config, "raw"))
            stage.average.keep()
            self.model = made_whole(self.model)
        elif rank() == 0:
            self.place.model.joinpath("raw.safetensors").unlink(missing_ok=True)  # of a stage that was trained before
        agree(lambda: self.model.save(self.place.model, self.config))

    def _caches(self) -> bool:
        """Whether latents are encoded once before a prior is trained."""
        if not self._trains_second():
            return False
        asked = self.config["cache_latents"]
        return pays(self.data, self.config["second"]["steps"]) if asked == "auto" else asked

    def _take_finished(self) -> None:
        """The model of a run of which nothing else is left; how it samples may be said anew."""
        load_weights(self.model, self.place.model / "model.safetensors")
        self.model.made_from = self._made_from(self.second.history)
        agree(lambda: self.model.save(self.place.model, self.config))

    def _made_from(self, second: History) -> dict[str, Any]:
        return {
            "config": provenance.config_hash(self.first.history, second),
            "images_seen": Journal(self.place.metrics).images_seen("second"),
            "begun_from": self._begun_from(),
            "first": self.first.history,
            "second": second,
        }

    # Training of either

    def _checkpoints(self, stage: str) -> Checkpoints:
        return Checkpoints(self.place.checkpoints / stage)

    def _snapshots(self, stage: str) -> Snapshots:
        return Snapshots(self.place.snapshots / stage)

    def _trainer(
        self, *callbacks: L.Callback, players: int = 1, shards: bool = False, given: Config | None = None
    ) -> L.Trainer:
        node, strategy = placed(dict(self.config["trainer"])), {}
        if node.get("strategy") == "fsdp":  # FSDP2, where Lightning means its first version
            del node["strategy"]
            strategy = {"strategy": FullyShard()} if shards and dist.is_initialized() else {}
        if dist.is_initialized() and players > 1:
            # In a game each backward pass leaves the other side's parameters without a gradient.
            node.setdefault("strategy", "ddp_find_unused_parameters_true")
        return build(
            node,
            "trainer",
            callbacks=list(callbacks),
            max_epochs=1,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=None if self.place is None else str(self.place.path),
            **strategy,
            **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, **(given or {})},
        )

    def _fit(self, stage: Stage, plan: Plan) -> None:
        """Train a stage to its end, from where it stands; Stopped if a signal came first."""
        journal, settings = Journal(self.place.metrics), plan.history[-1]["settings"]
        checkpoints, snapshots = self._checkpoints(stage.name), self._snapshots(stage.name)
        stage.attach(checkpoints, snapshots, journal, self.stop, self.sinks, settings)
        pictures = Pictures(self.place.samples, self.model, self.data, self.sinks)
        own, given = watchers.watching(
            self.config["callback"], stage, self.data.batch_size, self.place.path / "lightning"
        )
        shards = bool(stage.to_shard())
        trainer = self._trainer(
            Bar(self.console), pictures, *own, players=len(stage.players()), shards=shards, given=given
        )
        try:
            trainer.fit(stage, datamodule=Feed(self.data))
        finally:
            stage.rescue()
        if stage.updates < stage.steps:
            if not self.stop.raised:
                log.info(
                    "a callback ended the %s stage after update %d of %d; %s.steps=%d is a stage that ends there",
                    *(stage.name, stage.updates, stage.steps, stage.name, stage.updates),
                )
            raise Stopped

    # What came of it

    def _evaluate(self) -> None:
        what = asked_hash(self.config["evaluation"], self.config["metric"], self.config["prior"], self.data)
        model = self.model.to(self._trainer().strategy.root_device)
        weights = model.weights_hash
        self.measured = [each for each in agree(self._records) if (each.model, each.asked) == (weights, what)]
        if self.measured or not self.metrics:
            return
        evaluation: Evaluation = build(self.config["evaluation"], "evaluation")
        facts: dict[str, Any] = {
            "run": self.place.path.name,
            "experiment": self.config["experiment"],
            "data": self.data.fingerprint,
            "seed": self.seed,
            "asked": what,
            "weights": "averaged",
        }
        generate = bool(self.config.get("second"))
        metrics, kept = list(self.metrics.values()), self.place.path / "evaluation"
        self.measured = evaluation(model, self.data, metrics, facts, generate, kept, self.stop)
        if rank() == 0:
            record.write(self.place.records, *self.measured)

    def _records(self) -> list[record.Record]:
        return record.read(self.place.records)

    def _conclude(self) -> None:
        self._prune()
        self._tell("finished")
        report.write(self.place.path)
        for sink in self.sinks:
            sink.conclude(self.measured, self.place.report)
        say(self.measured)
        log.info("everything is in %s; look at %s", self.place.path, self.place.report)

    def _prune(self) -> None:
        """Remove what a finished run no longer needs, where this was asked for."""
        if self.config["keep"] == "model":
            has_first = "first" in self.first.history[-1]["settings"]  # its weights are frozen by now
            for stage, trained in (("first", has_first), ("second", self._trains_second())):
                if trained:
                    self._checkpoints(stage).prune(self.config[stage]["steps"], self.model.made_from[stage])
                    self._snapshots(stage).clear()
        self.store.needs.settle(goes_on=self.config["keep"] == "all")


def _number(source: Source) -> str:
    return "streamed" if source.stream is not None else f"{len(source):,}"


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
