"""Evaluation in training: what it measures, that training does not notice it, and the best weights that it keeps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ldm.callback.evaluations import Evaluations, Judge
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric
from ldm.report.quantity import lower_is_better
from ldm.resolve import ConfigError
from ldm.run.evaluation import Evaluation
from ldm.stage.best import Best
from ldm.stage.second import Second
from tests.runs import equal, rows
from tests.stage.tiny import At, data, fit, result, second
from tests.stage.two_ranks import on_two_ranks

EVERY = Evaluation(samples=1000, batch=2, every=8, every_samples=5)  # images: two updates of 4


class Mean(Metric):
    """The mean of all generated images, and how many there were."""

    def __init__(self, name: str = "psnr"):
        self.name, self.sums = name, torch.zeros(2, dtype=torch.float64)

    def add(self, examples: Examples) -> None:
        means = examples.generated.double().flatten(1).mean(1)
        self.sums += torch.tensor([float(means.sum()), len(means)], dtype=torch.float64)

    def measure(self) -> list[Measurement]:
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        total, n = self.sums.tolist()
        return [Measurement(metric=self.name, value=total / n, standard_error=None, n=int(n))]


class Told(Metric):
    """Measures nothing; its values are given."""

    def __init__(self, values: list[float]):
        self.values = values

    def add(self, examples: Examples) -> None:
        return

    def measure(self) -> list[Measurement]:
        return [Measurement(metric="fd_told", value=self.values.pop(0), standard_error=None, n=5)]


def goes_on(images: int, values: dict) -> bool:
    return True


def watched(stage: Second, metrics: Callable[[], Sequence[Metric]], judge: Judge = goes_on) -> Evaluations:
    return Evaluations(EVERY, metrics, stage.model, data(), judge)


def told(stage: Second, values: Sequence[float], judge: Judge = goes_on) -> Evaluations:
    left = list(values)
    return watched(stage, lambda: [Told(left)], judge)


def test_training_does_not_notice_it_and_averaged_weights_are_measured(tmp_path):
    """To the bit; every 8 images and at the end, which is no multiple of them."""
    options = {"steps": 7, "dropout": 0.2, "snapshots": 2}
    plain = fit(second(**options), tmp_path / "without")
    stage = second(**options)
    fit(stage, tmp_path / "with", watched(stage, lambda: [Mean()]))
    assert equal(result(stage), result(plain)), "weights, averages, optimiser, counts"
    found = [row for row in rows(tmp_path / "with") if "psnr" in row]
    assert [(row["stage"], row["step"], row["images"]) for row in found] == [
        *(("second", step, 4 * step) for step in (2, 4, 6, 7))
    ]
    assert [row for row in rows(tmp_path / "with") if "psnr" not in row] == rows(tmp_path / "without")
    assert all(module.training for module in stage.trained().modules())
    stage.average.keep()
    (wanted,) = Evaluation(samples=5)(stage.model.eval(), data(), [Mean()], {})
    assert found[-1]["psnr"] == pytest.approx(wanted.value, rel=1e-5) and wanted.n == 5
    assert len({row["psnr"] for row in found}) == 4


def test_two_ranks_measure_what_one_does(tmp_path):
    def make(file: Path) -> Second:
        def judge(images: int, values: dict) -> bool:
            file.write_text(json.dumps([images, values]))
            return True

        stage = second(lr=1e-6)
        stage.configure_callbacks = lambda: [watched(stage, lambda: [Mean()], judge)]
        return stage

    fit(make(tmp_path / "one"))
    on_two_ranks(tmp_path, lambda: make(tmp_path / "two"))
    (images, one), (_, two) = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert images == 24 and one == pytest.approx(two, rel=1e-5)


def kept(stage: Second) -> dict[str, Tensor]:
    """The averaged weights of a stage now."""
    with stage.average.applied():
        return {name: value.clone() for name, value in stage.averaged().state_dict().items()}


def best(**options) -> Second:
    stage = second(steps=8, **options)
    stage.best = Best("fd_told")
    return stage


VALUES = [9.0, 3.0, float("nan"), 1.0, 2.0]  # the first before any update, then after 2, 4, 6 and 8


def test_the_best_weights_are_kept_with_their_update(tmp_path):
    stage, seen = best(), []
    fit(stage, tmp_path, told(stage, VALUES), At(6, lambda s: seen.append(kept(s))))
    assert stage.best.facts == {"metric": "fd_told", "value": 1.0, "updates": 6, "images": 24}
    assert equal(stage.best.weights, seen[0]) and not equal(kept(stage), seen[0])


def test_who_is_killed_has_the_best_of_his_last_checkpoint(tmp_path):
    """A better one after the checkpoint was lost, and is found again; one before it stays."""

    def crash(stage: Second) -> None:
        raise KeyboardInterrupt

    whole = best()
    fit(whole, tmp_path / "whole", told(whole, VALUES))
    cut = best(save_every=5)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(cut, tmp_path / "cut", told(cut, VALUES), At(7, crash))
    assert cut.best.facts["updates"] == 6
    rest = best(save_every=5)
    fit(rest, tmp_path / "cut", told(rest, [2.5, 2.0]))
    assert rest.best.facts == {"metric": "fd_told", "value": 2.0, "updates": 8, "images": 32}
    late = best(save_every=5)
    fit(late, tmp_path / "late", told(late, VALUES), At(5, lambda s: setattr(s.stop, "raised", True)))
    again = best(save_every=5)
    fit(again, tmp_path / "late", told(again, VALUES[4:]))
    assert again.best.facts["updates"] == 6 and equal(again.best.weights, whole.best.weights)


def test_another_metric_begins_anew(tmp_path, caplog):
    stage = best()
    fit(stage, tmp_path, told(stage, VALUES))
    other = Best("psnr")
    other.load_state_dict(stage.best.state_dict())
    assert not other.facts and "the best so far was kept by fd_told, and from here on by psnr alone" in caplog.text
    for value in (1.0, 3.0, 2.0):
        other.offer(torch.nn.Linear(1, 1), {"psnr": value}, int(value), 0)
    assert other.facts["value"] == 3.0, "more of it is better"


def test_a_metric_that_is_not_measured_is_told_before_the_first_update(tmp_path):
    stage = second()
    stage.best = Best("fd_other")
    with pytest.raises(ConfigError, match=r"second\.keep_best=fd_other is not measured in training: there are fd_told"):
        fit(stage, tmp_path, told(stage, VALUES))
    assert not rows(tmp_path) and stage.updates == 0


def test_a_judge_ends_a_training_with_everything_saved(tmp_path):
    stage, heard = second(steps=8), []

    def judge(images: int, values: dict) -> bool:
        heard.append((images, values))
        return values["fd_told"] < 5

    fit(stage, tmp_path, told(stage, [4.0, 6.0], judge))
    assert heard == [(8, {"fd_told": 4.0}), (16, {"fd_told": 6.0})]
    assert stage.stopped and stage.updates == 4 and not stage.done


@pytest.mark.parametrize(
    ("lower", "names"),
    [
        (True, ("fid", "fd_classifier", "kd_random_conv", "fdr_x", "bits_per_dim", "val loss", "reconstruction_fd_x")),
        (False, ("psnr", "precision_classifier", "coverage_x", "label_accuracy", "shows_colour")),
    ],
)
def test_which_way_is_better(lower, names):
    assert all(lower_is_better(name) == lower for name in names)
    with pytest.raises(ValueError, match=r"seconds: of no metric of this name"):
        lower_is_better("seconds")
