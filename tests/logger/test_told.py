"""What loggers are told of whole runs: the run's own numbers, report and end."""

import json

import pytest
import yaml

from ldm.experiment.experiment import Experiment
from ldm.logger.sink import ranked
from ldm.logger.wandb import WandB
from ldm.run import record
from ldm.run.signals import FAILED, FINISHED, PREEMPTED
from ldm.stage.stage import Stage
from tests.logger.wandb_file import Written
from tests.runs import rows, tiny

pytestmark = pytest.mark.usefixtures("unchecked_file")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_finished_run_is_told_with_its_numbers_pictures_and_report(tmp_path):
    config, run = tiny(tmp_path, "logger=[wandb,tensorboard]", steps=2), tmp_path / "runs" / "run"
    assert Experiment(config).run() == FINISHED
    told, wanted = Written(run), ranked(record.read(run / "records.jsonl"))
    assert len(wanted) > 4 and told.summary.items() >= wanted.items()
    assert told.codes == [FINISHED]
    whole = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: told.config[key] for key in whole} == json.loads(json.dumps(whole))
    for stage in ("first", "second"):
        curve = [row for row in rows(run, stage) if "loss" in row]
        found = [row for row in told.history if f"{stage}/loss" in row]
        assert [(r[f"{stage}/images"], r[f"{stage}/loss"]) for r in found] == [(r["images"], r["loss"]) for r in curve]
    [files] = run.glob("wandb/offline-run-*/files")
    assert (files / told.summary["report.path"]).read_text() == (run / "report.html").read_text()
    kinds = {"first/reconstructions": 8, "second/samples": 8}
    pictures = {
        key: row[f"{key[: key.index('/')]}/images"] for row in told.history for key in kinds if f"{key}.path" in row
    }
    assert pictures == kinds

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {tag: events.Scalars(tag)[-1].value for tag in wanted} == pytest.approx(wanted, rel=1e-6)


def test_a_checkpoint_that_a_run_began_from_is_in_its_config(tmp_path):
    assert Experiment(tiny(tmp_path, "prior=normal", name="given", steps=1)).run() == FINISHED
    given = str(tmp_path / "runs" / "given")
    config = tiny(tmp_path, "prior=normal", f"autoencoder.checkpoint={given}", "logger=wandb", "metric=none", steps=1)
    assert Experiment(config).run() == FINISHED
    assert Written(tmp_path / "runs" / "run").config["autoencoder"]["checkpoint"] == given


def test_loggers_hear_how_a_run_ended(tmp_path, monkeypatch):
    """Stopped by a signal is not failed, and failed is not finished."""
    heard = []
    monkeypatch.setattr(WandB, "open", lambda *_: None)
    monkeypatch.setattr(WandB, "close", lambda sink, code: heard.append(code))
    for act in ("scalars", "picture", "conclude"):
        monkeypatch.setattr(WandB, act, lambda *_: None)
    ends = Stage.on_train_batch_end

    def stop(stage, *arguments):
        stage.stop.raised = True
        ends(stage, *arguments)

    def fail(stage, *arguments):
        raise RuntimeError("a cosmic ray")

    config = tiny(tmp_path, "prior=normal", "logger=wandb", "metric=none")
    monkeypatch.setattr(Stage, "on_train_batch_end", stop)
    assert Experiment(config).run() == PREEMPTED
    monkeypatch.setattr(Stage, "on_train_batch_end", fail)
    with pytest.raises(RuntimeError):
        Experiment(config).run()
    monkeypatch.setattr(Stage, "on_train_batch_end", ends)
    assert Experiment(config).run() == FINISHED
    assert heard == [PREEMPTED, FAILED, FINISHED]


def test_a_run_of_a_wandb_sweeps_agent_goes_on_in_its_directory(tmp_path, monkeypatch):
    """The agent gives no name, and starts a run that was preempted again with the id that it had."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")
    for identity in ("one", "two", "one"):
        monkeypatch.setenv("WANDB_RUN_ID", identity)
        assert Experiment(tiny(tmp_path, "prior=normal", "metric=none", name=None, steps=1)).run() == FINISHED
    assert sorted(each.name for each in (tmp_path / "runs" / "swept").iterdir()) == ["one", "two"]
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert Experiment(tiny(tmp_path, "prior=normal", "metric=none", name="mine", steps=1)).run() == FINISHED
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["mine", "swept"]
