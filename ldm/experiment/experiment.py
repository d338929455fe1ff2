"""What a config describes, done: first stage, latents, prior, evaluation, report; in one directory, on all ranks.

Every step asks first whether it has been done: a first stage and latents are looked up in the store, a stage goes on from
its checkpoint, numbers are not measured twice. So the same command is begin and resume, and a sweep over nine
priors trains one autoencoder. What has been done counts only as far as it was made from what the config says now
(ldm.stage.provenance): a run goes on, is made anew from where it differs, or is refused before anything is changed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from ldm.build import Config, build
from ldm.callback import watchers
from ldm.callback.evaluations import Judge
from ldm.callback.measured import save_pictures
from ldm.callback.pictures import Pictures
from ldm.data.module import DataModule
from ldm.experiment.account import Account
from ldm.experiment.check import (
    check_batch,
    check_cache,
    check_data,
    check_evaluation,
    check_prior,
    check_stages,
    checked,
)
from ldm.experiment.classes import fitted, provisional
from ldm.experiment.given import Given
from ldm.experiment.log_file import LogFile
from ldm.experiment.planning import Planning
from ldm.experiment.size import footprint
from ldm.experiment.trainer import trainer
from ldm.experiment.training import Training
from ldm.files import folder
from ldm.logger.sink import Guarded
from ldm.logger.wandb import swept
from ldm.model import LatentModel, load_weights, made_from, write_weights
from ldm.random import seed_of
from ldm.ranks import agree, rank
from ldm.report import single
from ldm.run import record
from ldm.run.directory import Journal, RunDirectory, asked_for
from ldm.run.evaluation import Evaluation, record_facts
from ldm.run.needs import Needs
from ldm.run.record import say
from ldm.run.signals import FAILED, FINISHED, PREEMPTED, Diverged, StopFlag, Stopped
from ldm.run.store import Store, key_of, turn
from ldm.stage import provenance
from ldm.stage.best import Best, save_best
from ldm.stage.first import First
from ldm.stage.latents import cached, statistics, weights_key
from ldm.stage.launch import ranks, remember, restarted
from ldm.stage.provenance import Plan
from ldm.stage.second import Second, aligned
from ldm.stage.settings import History
from ldm.stage.sharding import made_whole
from ldm.stage.stage import Stage

log = logging.getLogger(__name__)


class Experiment:
    """A run: what of its steps is not done yet is done, in one directory, on all ranks.

    Arguments:
        config: plain and resolved: the keys of conf/config.yaml.
        judge: is told what evaluations in training measure and may end the training, as a search prunes a trial.
    """

    def __init__(self, config: Config, judge: Judge | None = None):
        self.judge = None if judge is None else lambda *measured: self._is_worth(judge, *measured)
        self._pruned = False
        self.given = Given(config)
        self.config = checked(self.given.config)
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
        self._log = LogFile()
        with self._log.awaited():
            self._prepare()
        with ranks(trainer, self.config["rank_timeout"], self.stop):
            self.place = RunDirectory(Path(agree(self._claim)))
            self.store = Store(Path(self.config["store"]), Needs(self.place.path))
            parts = self.config, self.model, self.data, self.given
            self.planning = Planning(*parts, self.place, self.store)
            self.account = Account(self.place, *parts, self._asked, trainer.strategy.root_device)
            try:
                self._steps()
            except Stopped:
                self._ended("pruned" if self._pruned else "stopped")
                if self._pruned:
                    log.info("its search does not think it worth going on; everything is saved")
                else:
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
        folder(Path(self.config["store"]), "store")
        self._build_model(provisional(self.config))
        self.data: DataModule = build(self.config["data"], "data")
        whole = fitted(self.config, self.data)
        if whole != self.config:
            self.config = whole
            self._build_model(whole)
        self.metrics = build(self.config["metric"] or {}, "metric")
        check_data(self.model.condition, self.metrics, self.data)
        self._tell_missing()
        if self.metrics:
            check_evaluation(build(self.config["evaluation"], "evaluation"), self.model.condition, self.data)
        watchers.check(self.config["callback"])
        self.given.load_into(self.model)

    def _tell_missing(self) -> None:
        """Numbers that this machine cannot measure, before hours are spent: a run goes on without them."""
        for metric in self.metrics.values() if rank() == 0 else ():
            for line in metric.missing():
                log.warning("%s; the run goes on without, and `ldm evaluate` can measure it later", line)

    def _build_model(self, config: Config) -> None:
        torch.manual_seed(self.seed)  # the networks' first weights, on all ranks the same
        self.model = LatentModel.build(config)
        check_stages(self.config, self.given.has_first, self.model.autoencoder)
        check_prior(self.config, self.model, self.given.has_prior)
        check_cache(self.config, self.model.condition)
        self.flops = self.model.prior.flops()  # which finds a network that does not fit before anything is trained
        self.alignment = aligned(self.config.get("alignment"), self.model, self.seed)

    def _claim(self) -> str:
        name = self.config["name"] or swept() or restarted()
        self._held = RunDirectory.claim(Path(self.config["runs"]), name, self.config["experiment"])
        remember(self._held.path.name)
        self._log.open(self._held.path / "log.txt")
        return str(self._held.path)

    def _steps(self) -> None:
        self.first, self.second = agree(self.planning.plans)
        self._begun = True
        self.data.bad_samples = self.place.path / "bad_samples.jsonl"
        loggers = self.config["logger"]
        self.sinks = [Guarded(build(node, f"logger.{name}")) for name, node in loggers.items() if rank() == 0]
        agree(self._begin)
        for sink in self.sinks:
            sink.open(self.place.path, self.place.path.name, self.given.put_back(self.config))
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

    def _begin(self) -> None:
        self.account.begin(self.flops)
        self.store.needs.begin()
        if self.planning.is_left("first", self.first) or self.planning.is_left("second", self.second):
            size = footprint(self.planning, self.first, self.second, self.alignment, self._new_first)
            log.info("%s", size.said(self.config["keep"]))
            size.check_room(self.place.path, self.store.root)

    def _is_worth(self, judge: Judge, images: int, values: Mapping[str, float]) -> bool:
        worth = judge(images, values)
        self._pruned = not worth
        return worth

    def _ended(self, status: str, error: Exception | None = None) -> None:
        """Leave how a run ended, and a report of what there is; of one that was refused nothing is touched."""
        if rank() == 0 and self._begun:
            self.account.tell(status, error)
            single.write(self.place.path)

    # First stage

    def _first_stage(self) -> None:
        autoencoder = self.model.autoencoder
        if self.planning.pruned("first"):
            load_weights(autoencoder, self.place.model / "model.safetensors", "autoencoder.")
        elif self.planning.trains["first"]:
            found = self._stored_first()
            load_weights(autoencoder, found / "model.safetensors")
            description = self.store.description(found)
            self.model.cost["first"] = description.get("cost")
            if weights_key(autoencoder) != description["weights"]:
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
        """The first stage, not trained yet; not kept, for averages and optimiser would stay in memory with it."""
        torch.manual_seed(seed_of(self.seed, "loss"))  # a critic's first weights
        loss = build(self.config["loss"], "loss")
        return First(self.model.autoencoder, loss, build(self.config["first"], "first"), self.seed)

    def _publish(self, stage: First) -> Path:
        key = key_of(stage.history)
        with stage.average.applied():
            weights = self.store.workplace("autoencoder", key) / "model.safetensors"
            write_weights(self.model.autoencoder.state_dict(), weights)
            description = {"history": stage.history, "weights": weights_key(self.model.autoencoder)}
            description["cost"] = Journal(self.place.metrics).cost("first")
            if stage.recipe.budget:
                description |= {"updates": stage.updates, "spent": dataclasses.asdict(stage.spent)}
        return self.store.publish("autoencoder", key, description)

    # Second stage

    def _second_stage(self) -> None:
        autoencoder = self.model.autoencoder.to(self._trainer().strategy.root_device)
        weights = weights_key(autoencoder)
        self.second = agree(lambda: self.planning.second(self.first.history, weights))
        if self.planning.pruned("second"):
            self._take_finished()
            return
        if self.planning.caches():
            reads = self.model.prior.reads
            self.data = cached(autoencoder, self.data, self.store, self.alignment, self.stop, reads)
        kept = None if self.given.prior is None else self.given.prior.whitening(weights)
        if kept is not None or self.model.prior.reads == "latents":  # codes are not whitened
            autoencoder.set_statistics(*(kept or statistics(autoencoder, self.data, self.stop)))
        self.model.made_from = self._made_from(self.second.history)
        if self.config.get("second") and (self.given.prior is None or not self.given.prior.tokens):
            self.model.condition.fit(self.data.captions())
        if self.planning.trains["second"]:
            self._train_second()
        elif rank() == 0:
            self._show_untrained()
        agree(lambda: self.model.save(self.place.model, self.config))

    def _train_second(self) -> None:
        """The prior to its end; raw and best weights are written, the averaged ones are the model's from then on."""
        stage = Second(self.model, build(self.config["second"], "second"), self.seed, self.alignment)
        stage.best = None if stage.recipe.keep_best is None else Best(stage.recipe.keep_best)
        self._fit(stage, self.second)
        self.model.made_from = self._made_from(stage.history)
        save_best(stage.best, self.model, self.place.model)
        raw = made_whole(self.model)
        agree(lambda: raw.save(self.place.model, self.config, "raw"))
        stage.average.keep()
        self.model = made_whole(self.model)

    def _show_untrained(self) -> None:
        """Samples of a prior that has nothing to learn; weights of a stage that was trained before are removed."""
        for name in ("raw.safetensors", "best.safetensors"):
            self.place.model.joinpath(name).unlink(missing_ok=True)
        learns = any(True for _ in self.model.prior.parameters())
        if self.config["second"].get("picture_every") and not learns:
            model = self.model.to(self._trainer().strategy.root_device)
            Pictures(self.place.samples, model, self.data, self.sinks).of_untrained(self.seed)

    def _take_finished(self) -> None:
        """The model of a run of which nothing else is left; how it samples may be said anew."""
        best = made_from(self.place.model).get("best")
        load_weights(self.model, self.place.model / "model.safetensors")
        self.model.made_from = self._made_from(self.second.history) | ({} if best is None else {"best": best})
        agree(lambda: self.model.save(self.place.model, self.config))

    def _made_from(self, second: History) -> dict[str, Any]:
        return {
            "config": provenance.config_hash(self.first.history, second),
            "images_seen": Journal(self.place.metrics).images_seen("second"),
            "begun_from": self.given.named(),
            "budget": provenance.limits(self.first.history, second),
            "returned": sum(provenance.returns(each) for each in (self.first.history, second)) or None,
            "first": self.first.history,
            "second": second,
        }

    # Training of either

    def _trainer(self) -> L.Trainer:
        return trainer(self.config["trainer"], None if self.place is None else self.place.path)

    def _fit(self, stage: Stage, plan: Plan) -> None:
        """Train a stage to its end, from where it stands; Stopped if a signal came first."""
        parts = self.config, self.model, self.data, self.place, self.planning
        Training(*parts, self.sinks, self.stop, self.console, self.judge).fit(stage, plan)

    # What came of it

    def _evaluate(self) -> None:
        facts = record_facts(self.place.path, self.config, self.data, "averaged")
        model = self.model.to(self._trainer().strategy.root_device)
        weights, model.cost = model.weights_hash, agree(self.account.cost)
        self.measured = [each for each in agree(self._records) if (each.model, each.asked) == (weights, facts["asked"])]
        if self.measured or not self.metrics:
            return
        evaluation: Evaluation = build(self.config["evaluation"], "evaluation")
        generate = bool(self.config.get("second"))
        metrics, kept = list(self.metrics.values()), self.place.path / "evaluation"
        self.measured = evaluation(model, self.data, metrics, facts, generate, kept, self.stop, self.store)
        if rank() == 0:
            record.write(self.place.records, *self.measured)
            images = self.model.made_from.get("images_seen") or 0
            save_pictures(metrics, self.place.samples, images, self.data.batch_size)

    def _records(self) -> list[record.Record]:
        return record.read(self.place.records)

    def _conclude(self) -> None:
        self._prune()
        self.account.tell("finished")
        single.write(self.place.path)
        for sink in self.sinks:
            sink.conclude(self.measured, self.place.report)
        say(self.measured)
        log.info("everything is in %s; look at %s", self.place.path, self.place.report)

    def _prune(self) -> None:
        """Remove what a finished run no longer needs, where this was asked for."""
        if self.config["keep"] == "model":
            for stage, trained in self.planning.trains.items():
                if trained:
                    self.planning.prune(stage, self.model.made_from[stage])
                    self.planning.snapshots(stage).clear()
        self.store.needs.settle(goes_on=self.config["keep"] == "all")
