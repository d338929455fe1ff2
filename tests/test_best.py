"""A run with budgets and evaluations in training, from its words to its records: what ended each stage, and the best weights."""

import pytest
import torch

from ldm.command.evaluate import measure_again
from ldm.experiment.experiment import Experiment
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run.record import read
from ldm.run.signals import FINISHED
from tests.runs import refuse_training, rows, tiny

pytestmark = pytest.mark.usefixtures("unchecked_file")

WORDS = ("++first.budget.seconds=1e-6", "++second.budget.images=12", "++second.keep_best=fd_random_conv", "keep=model")
EVALUATED = ("++evaluation.every=4", "++evaluation.every_samples=4")


def test_the_best_weights_of_a_run_with_budgets(tmp_path, monkeypatch):
    """No update ends in a microsecond: one is made. 12 images are three updates of four."""
    config = tiny(tmp_path, *WORDS, *EVALUATED, "second.optimizer.lr=0.05", steps=100)
    assert Experiment(config).run() == FINISHED
    run = tmp_path / "runs" / "run"
    curve = {row["step"]: row["fd_random_conv"] for row in rows(run, "second") if "fd_random_conv" in row}
    assert list(curve) == [1, 2, 3]
    wanted = min(curve, key=curve.get)
    limits = {"first": "1e-06 s", "second": "12 images"}
    final = read(run / "records.jsonl")
    assert {(each.weights, each.updates, each.images_seen) for each in final} == {("averaged", None, 12)}
    assert all(each.budget == limits for each in final)
    refuse_training(monkeypatch)
    assert Experiment(config).run() == FINISHED, "its budgets are spent, and of its checkpoints that is left"
    found, last = (LatentModel.load(run, weights) for weights in ("best", "average"))
    assert found.made_from["best"]["value"] == curve[wanted] and found.made_from["updates"] == wanted
    same = [torch.equal(a, b) for a, b in zip(found.prior.parameters(), last.prior.parameters(), strict=True)]
    assert all(same) == (wanted == 3)
    measure_again(str(run), 5, None, None, None, "best", None, "cpu")
    again = read(run / "records.jsonl")[len(final) :]
    assert again and {(each.weights, each.updates, each.images_seen) for each in again} == {
        ("best:fd_random_conv", wanted, 4 * wanted)
    }
    assert all(each.seen == ["random_conv"] for each in again), "the network that chose"
    assert not any(each.seen for each in final)
    (run / "model" / "best.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has no best weights: a run keeps them that was trained with evaluation"
    ):
        LatentModel.load(run, "best")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            WORDS,
            r"second\.keep_best=fd_random_conv chooses among evaluations in training, and there are none: give evaluat",
        ),
        ((*EVALUATED, "++second.keep_best=speed"), r"second\.keep_best=speed: of no metric of this name is it known"),
        ((*EVALUATED, "++first.keep_best=psnr"), r"first\.keep_best: the first stage is not evaluated in training"),
        (
            ("++first.budget.seconds=1", "++first.budget.images=5"),
            r"first.*one budget, and here are seconds=1 and images=5",
        ),
    ],
)
def test_what_could_not_be_done_is_told_at_once(words, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        Experiment(tiny(tmp_path, *words))
