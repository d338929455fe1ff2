"""How a run ended stands in its directory, with a report of what there is; and what is told of numbers of before."""

import json
import logging

import pytest

from ldm.experiment.experiment import Experiment
from ldm.metric.reconstruction import ReconstructionQuality
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run import record
from ldm.run.signals import FINISHED, PREEMPTED, Diverged
from ldm.stage.stage import Stage
from tests.runs import tiny

pytestmark = pytest.mark.usefixtures("unchecked_file")


def ended(folder):
    facts = json.loads((folder / "run.json").read_text())
    return facts["status"], facts.get("error")


def test_what_fails_after_training_leaves_the_model_and_a_report(tmp_path, monkeypatch):
    run, said = tmp_path / "runs" / "run", "the metric is <broken>"

    def fail(self):
        raise RuntimeError(said)

    monkeypatch.setattr(ReconstructionQuality, "measure", fail)
    with pytest.raises(RuntimeError, match=said):
        Experiment(tiny(tmp_path)).run()
    assert ended(run) == ("failed", f"RuntimeError: {said}")
    assert "the metric is &lt;broken&gt;" in (run / "report.html").read_text() and not record.read(
        run / "records.jsonl"
    )
    assert LatentModel.load(run).made_from["images_seen"] == 8
    monkeypatch.undo()
    assert Experiment(tiny(tmp_path)).run() == FINISHED
    assert ended(run) == ("finished", None) and "broken" not in (run / "report.html").read_text()


def test_a_diverged_and_a_stopped_run_say_so(tmp_path, monkeypatch):
    run, config = tmp_path / "runs" / "run", tiny(tmp_path)
    ends = Stage.on_train_batch_end

    def diverge(stage, *arguments):
        raise Diverged("too far")

    def stop(stage, *arguments):
        stage.stop.raised = True
        ends(stage, *arguments)

    monkeypatch.setattr(Stage, "on_train_batch_end", diverge)
    with pytest.raises(Diverged):
        Experiment(config).run()
    assert ended(run) == ("diverged", "Diverged: too far")
    monkeypatch.setattr(Stage, "on_train_batch_end", stop)
    assert Experiment(config).run() == PREEMPTED
    assert ended(run) == ("stopped", None) and "stopped" in (run / "report.html").read_text()


def test_numbers_of_before_are_not_shown_as_those_of_now(tmp_path, caplog):
    run = tmp_path / "runs" / "run"
    assert Experiment(tiny(tmp_path)).run() == FINISHED
    before = record.read(run / "records.jsonl")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert Experiment(tiny(tmp_path, "second.steps=4")).run() == FINISHED
    after = record.read(run / "records.jsonl")
    assert after[: len(before)] == before and {each.images_seen for each in before} == {8}
    new = record.current(after)
    assert len(new) == len(before) and {each.images_seen for each in new} == {16}
    assert {each.model for each in new} == {LatentModel.load(run).weights_hash} != {each.model for each in before}
    shown = [line for line in caplog.messages if line.startswith("fd_random_conv ")]
    value = {each.metric: each.value for each in new}["fd_random_conv"]
    assert len(shown) == 1 and f"{value:.4g}" in shown[0]
    assert "Of earlier" in (run / "report.html").read_text()


def test_a_finished_run_that_is_refused_stays_finished(tmp_path):
    run = tmp_path / "runs" / "run"
    assert Experiment(tiny(tmp_path)).run() == FINISHED
    report = (run / "report.html").read_bytes()
    with pytest.raises(ConfigError, match=r"seed=1 \(was 0\)"):
        Experiment(tiny(tmp_path, "seed=1")).run()
    assert ended(run) == ("finished", None) and (run / "report.html").read_bytes() == report


def test_what_was_said_before_there_was_a_directory_is_in_its_log(tmp_path, monkeypatch):
    prepare = Experiment._prepare

    def speak(self):
        logging.getLogger("ldm").warning("seven links lead nowhere")
        prepare(self)

    monkeypatch.setattr(Experiment, "_prepare", speak)
    assert Experiment(tiny(tmp_path, "prior=normal", steps=1)).run() == FINISHED
    assert (tmp_path / "runs" / "run" / "log.txt").read_text().count("seven links lead nowhere") == 1


def test_pictures_kept_in_memory_do_not_stand_in_for_latents(tmp_path, monkeypatch):
    """In the process that trained the first stage, the second one reads what another process would."""
    seen, latent = [], LatentModel.latent

    def look(model, batch, random):
        seen.append(sorted(batch.keys() & {"image", "mean"}))
        return latent(model, batch, random)

    monkeypatch.setattr(LatentModel, "latent", look)
    assert Experiment(tiny(tmp_path, "++data.cache=true")).run() == FINISHED
    assert seen and all(each == ["mean"] for each in seen)
