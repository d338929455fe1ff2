"""What runs say of their cost: from their curves, from the store where the first stage was trained elsewhere, and again later."""

import json

import pytest

from ldm.command.evaluate import measure_again
from ldm.experiment.experiment import Experiment
from ldm.run import record
from ldm.run.directory import Journal
from ldm.run.signals import FINISHED
from tests.runs import tiny


def ran(folder, name):
    config = tiny(folder, "condition=none", name=name)
    config["metric"] = {"cost": {"_target_": "ldm.metric.cost.Cost"}}
    config["second"]["steps"] = {"one": 2, "other": 3}[name]
    assert Experiment(config).run() == FINISHED
    return folder / "runs" / name


def training(run):
    """The numbers of training of the newest evaluation."""
    found = {each.metric: each.value for each in record.read(run / "records.jsonl")}
    return {name: value for name, value in found.items() if name.startswith("training")}


def test_a_run_says_what_both_of_its_stages_have_cost(tmp_path):
    one, other = ran(tmp_path, "one"), ran(tmp_path, "other")
    first, second = (Journal(one / "metrics.jsonl").cost(stage) for stage in ("first", "second"))
    assert first["images"] == second["images"] == 8 and min(first["flops"], second["flops"]) > 0
    found = training(one)
    assert (
        found["training_flops"] == found["training_flops_first"] + second["flops"] == first["flops"] + second["flops"]
    )
    assert found["training_seconds"] == pytest.approx(first["seconds"] + second["seconds"])
    assert found["training_images_per_second_second"] == pytest.approx(8 / second["seconds"])
    shared = training(other)  # whose first stage is in the store
    assert shared["training_seconds_first"] == first["seconds"] and shared["training_flops_first"] == first["flops"]
    assert shared["training_flops_second"] == second["flops"] / 2 * 3
    assert json.loads((other / "run.json").read_text())["cost"]["first"] == first
    (other / "records.jsonl").unlink()
    measure_again(str(other), 3, None, None, None, "average", None, "cpu")
    assert training(other) == shared
