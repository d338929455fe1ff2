"""Lightning's callbacks and a user's: what they find in a trainer, and what comes of what they ask for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.experiment.experiment import Experiment
from ldm.resolve import ConfigError
from ldm.run.checkpoint import Checkpoints
from ldm.run.signals import FINISHED, PREEMPTED
from ldm.stage.provenance import Begun, fresh, plan
from ldm.stage.settings import of_second
from ldm.tensors import read_tensors
from tests.runs import rows, tiny
from tests.stage.tiny import data

pytestmark = pytest.mark.usefixtures("unchecked_file")

LIGHTNING = "lightning.pytorch.callbacks"


def config(folder, *words, name="run", **callbacks):
    made = tiny(folder, "metric=none", *words, name=name)
    made["callback"] |= callbacks
    for stage in ("first", "second"):
        made[stage] |= {"picture_every": 0, "rate": {"_target_": "ldm.stage.rate.Constant"}}
    return made


def weights(folder, name):
    return read_tensors(folder / "runs" / name / "model" / "raw.safetensors")


def test_what_a_callback_logs_is_a_number_of_the_stage(tmp_path):
    made = config(
        tmp_path, "callback=learning_rate", "first.optimizer.lr=0.0025", "++second.optimizer.weight_decay=0.125"
    )
    assert Experiment(made).run() == FINISHED
    run = tmp_path / "runs" / "run"
    first, second = ([row for row in rows(run, stage) if "lr-AdamW" in row] for stage in ("first", "second"))
    assert [(row["step"], row["images"], row["lr-AdamW"]) for row in first] == [(0, 0, 0.0025), (1, 4, 0.0025)]
    assert {row["lr-AdamW-weight_decay"] for row in second} == {0.125} and len(second) == 2


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of 6 updates of its second stage that nothing watches."""
    folder = tmp_path_factory.mktemp("plain")
    assert Experiment(config(folder, "second.steps=6")).run() == FINISHED
    return weights(folder, "run")


def test_a_stage_that_a_callback_ends_is_saved_and_goes_on(tmp_path, plain, caplog):
    """Of patience 1: at the second validation, after 4 updates, nothing is better by so much."""
    made = config(tmp_path, "second.steps=6", "callback=early_stopping", "callback.early_stopping.patience=1")
    made["callback"]["early_stopping"]["min_delta"] = 1e9
    with caplog.at_level("INFO"):
        assert Experiment(made).run() == PREEMPTED
    assert (
        "a callback ended the second stage after update 4 (of 6 updates); second.steps=4 is a stage that ends there"
        in caplog.text
    )
    run = tmp_path / "runs" / "run"
    assert (
        Checkpoints(run / "checkpoints" / "second").load()[0] == 4 and not (run / "model" / "raw.safetensors").exists()
    )
    assert Experiment(config(tmp_path, "second.steps=6")).run() == FINISHED
    found = weights(tmp_path, "run")
    assert all(torch.equal(found[key], value) for key, value in plain.items()), "as if nothing had stopped it"


def test_a_stage_without_time_for_an_update_is_not_done(tmp_path):
    timer = {"_target_": f"{LIGHTNING}.Timer", "duration": "00:00:00:00"}
    assert Experiment(config(tmp_path, timer=timer)).run() == PREEMPTED
    assert not list((tmp_path / "store" / "autoencoder").glob("*/artifact.json"))


def test_checkpoints_and_bars_of_lightnings_are_taken(tmp_path):
    """By themselves they are refused by a trainer that has none of its own."""
    saver = {"_target_": f"{LIGHTNING}.ModelCheckpoint", "every_n_train_steps": 1, "save_top_k": -1}
    made = config(tmp_path, saver=saver, bar={"_target_": f"{LIGHTNING}.TQDMProgressBar", "refresh_rate": 0})
    assert Experiment(made).run() == FINISHED
    files = sorted(str(each.relative_to(tmp_path / "runs/run/lightning")) for each in tmp_path.rglob("*.ckpt"))
    names = [f"epoch=0-step={step}.ckpt" for step in (1, 2)]
    assert files == [f"{stage}/checkpoints/{name}" for stage in ("first", "second") for name in names]


MINE = """
from pathlib import Path
import lightning as L

class Told(L.Callback):
    def __init__(self, file: str, times: int = 1):
        self.file, self.times = file, times

    def on_train_batch_end(self, trainer, stage, outputs, batch, index):
        with open(self.file, "a") as file:
            known = trainer.callback_metrics.get("loss")
            file.write(f"{stage.name} {trainer.global_step} {outputs['loss'].item()} {known}\\n" * self.times)

class Other:
    pass
"""

RUN = """
import sys
from pathlib import Path
from ldm.experiment.experiment import Experiment
from tests.callback.test_watchers import config
folder = Path(sys.argv[1])
told = {"_target_": "mine.Told", "file": str(folder / "told.txt"), "times": 2}
assert Experiment(config(folder, "prior=normal", told=told)).run() == 0
try:
    Experiment(config(folder, other={"_target_": "mine.Other"}, name="other")).run()
except ValueError as error:
    print(error)
"""


def test_a_users_own_callback(tmp_path):
    """Its package is one that the user's environment names."""
    (tmp_path / "mine.py").write_text(MINE)
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        env=os.environ | {"LDM_PLUGINS": "mine theirs", "PYTHONPATH": path},
        **{"capture_output": True, "text": True, "timeout": 280, "check": False},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "callback.other: wanted a lightning.pytorch.Callback, got mine.Other" in done.stdout
    assert not (tmp_path / "runs" / "other").exists(), "and that before a directory is made"
    told = [line.split() for line in (tmp_path / "told.txt").read_text().splitlines()]
    losses = [str(row["loss"]) for row in rows(tmp_path / "runs" / "run", "first") if "loss" in row]
    assert told[::2] == [["first", "1", losses[0], "None"], ["first", "2", losses[1], losses[0]]] and told[0] == told[1]


def test_a_package_that_nobody_names_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"callback\.mine\._target_: mine\.Told is not allowed"):
        Experiment(config(tmp_path, mine={"_target_": "mine.Told"}))


def test_a_callback_that_may_change_updates_is_one_of_their_settings(tmp_path):
    def settings(**callbacks):
        return of_second(config(tmp_path, **callbacks), data(), fresh({}), None)

    plain = settings()
    watched = settings(timer={"_target_": f"{LIGHTNING}.Timer"}, rate={"_target_": f"{LIGHTNING}.LearningRateMonitor"})
    assert watched == plain
    changed = settings(swa={"_target_": f"{LIGHTNING}.StochasticWeightAveraging", "swa_lrs": 0.1})
    going = plan("second", Begun(1, fresh(plain)), changed)
    assert not going.refused and len(going.changed) == 1 and going.changed[0].startswith("callback={'swa': ")
    assert plan("second", Begun(2, fresh(plain)), changed).refused
