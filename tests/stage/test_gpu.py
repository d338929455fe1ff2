"""Training on a GPU, in every precision; the rest of what a GPU shows is measured by benchmarks/gpu.sh."""

import math

import pytest

from ldm.experiment.experiment import Experiment
from ldm.run.signals import FINISHED
from tests.runs import rows, tiny


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_both_stages_train(tmp_path, precision):
    words = ("trainer.accelerator=gpu", f"trainer.precision={precision}")
    assert Experiment(tiny(tmp_path, *words, steps=8)).run() == FINISHED
    for stage in ("first", "second"):
        losses = [row["loss"] for row in rows(tmp_path / "runs" / "run", stage) if "loss" in row]
        assert losses and all(map(math.isfinite, losses)), f"{stage}: {losses}"


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_does(tmp_path):
    """The same noise, order and weights: in float32 the losses agree to what matrix units round off."""
    found = {}
    for device in ("cpu", "gpu"):
        config = tiny(tmp_path / device, f"trainer.accelerator={device}", steps=4)
        assert Experiment(config).run() == FINISHED
        found[device] = [row["loss"] for row in rows(tmp_path / device / "runs" / "run", "first") if "loss" in row]
    assert found["gpu"] == pytest.approx(found["cpu"], rel=2e-2)


@pytest.mark.gpu
def test_a_prior_that_learns_nothing_is_drawn_where_its_first_stage_is(tmp_path):
    """No trainer moves such a prior, nor its condition, to the GPU."""
    assert Experiment(tiny(tmp_path, "trainer.accelerator=gpu", "prior=normal", "condition=label")).run() == FINISHED
    assert (tmp_path / "runs" / "run" / "samples" / "second-0000000.png").exists()
