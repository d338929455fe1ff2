"""A run goes on with the words that it was begun with, or says which ones are others."""

import logging

import pytest

from ldm.build import ConfigError
from ldm.experiment import Experiment
from ldm.run.changes import check, differences
from ldm.run.signals import FINISHED
from tests.runs import rows, tiny


def test_differences_are_leaves():
    old, new = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": None, "f": 3}
    assert list(differences(old, new)) == [("a.b", 1, 2), ("d", 1, None), ("f", None, 3)]
    assert not list(differences({"a": 1}, {"a": 1, "group": {}})), "begun before there was such a group"
    assert list(differences({"a": 0}, {"a": {}})) == [("a", 0, {})]


@pytest.mark.parametrize(
    "key",
    [
        *("trainer.devices", "data.workers", "data.root", "data.train.root", "logger.wandb.project", "first.steps"),
        *("second.steps", "second.log_every", "prior.steps", "prior.sampler._target_", "evaluation.samples", "store"),
    ],
)
def test_what_changes_nothing_is_free(key, tmp_path, caplog):
    check(_nested(key, 1), _nested(key, 2), tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("key", ["first.optimizer.lr", "second.rate.warmup", "first.clip", "cache_latents"])
def test_what_changes_the_rest_is_told(key, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check(_nested(key, 1), _nested(key, 2), tmp_path)
    assert f"{key}=2 (was 1)" in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        *(
            "seed",
            "loss.kl_weight",
            "autoencoder.encoder.width",
            "prior.backbone.width",
            "data.flip",
            "data.batch_size",
        ),
        "alignment.weight",
    ],
)
def test_what_makes_another_run_is_refused(key, tmp_path):
    with pytest.raises(ConfigError, match=rf"{key}=2 \(was 1\).*name="):
        check(_nested(key, 1), _nested(key, 2), tmp_path)


def _nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def test_a_run_is_refused_unharmed_and_longer_is_no_other(tmp_path):
    assert Experiment(tiny(tmp_path)).run() == FINISHED
    run = tmp_path / "runs" / "run"
    config, curves = (run / "config.yaml").read_text(), rows(run)
    with pytest.raises(ConfigError, match=r"begun with another config: .*width"):
        Experiment(tiny(tmp_path, "backbone.width=4")).run()
    assert (run / "config.yaml").read_text() == config and rows(run) == curves
    assert Experiment(tiny(tmp_path, "second.steps=4")).run() == FINISHED
    assert max(row["step"] for row in rows(run, "second")) == 4
