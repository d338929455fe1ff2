"""What every prior of conf/prior promises in training, whichever it is: the same update on ranks and in micro-batches, to the
bit after a stop, averages of the weights that were there, nothing of an update that is not finite. A diffusion promises it with
the conditions on a part of each image, too, which draw that part anew in each update.

In two processes all of them are trained one after the other, since processes cost more than these trainings.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from ldm.stage.second import Second
from ldm.stage.sharding import FullyShard
from ldm.stage.stage import Stage
from tests.prior.test_laws import CASES, made
from tests.runs import equal
from tests.stage.tiny import At, data, fit, recipe, result
from tests.stage.two_ranks import each_on_two_ranks

pytestmark = pytest.mark.usefixtures("unchecked_file")  # the other laws check shapes

Case = tuple[str, str, str]  # prior, first stage, condition
COUPLED = ("ot_flow", "kl_f4_small", "label")  # which looks at the whole batch of an update
OF_IMAGES = [("diffusion", "kl_f4_small", condition) for condition in ("masked", "low_resolution")]
LEARNT = [(*case, "label") for case in CASES if case[0] != "normal"] + OF_IMAGES  # but for normal, which has no weights
UPDATES = 4


def stage(case: Case, folder: Path, **options: Any) -> Second:
    chosen = {"validate_every": 0, "steps": 40, "log_every": 1} | options
    # Of an image: where a network's norms see a few numbers, they blow up rounding.
    side = 8 if case[1] == "identity" else 16
    one = Second(made(*case, folder, f"[3,{side},{side}]"), recipe(**chosen))
    one.reads = partial(data, side=side)
    return one


# Adam's first steps are signs, and blow up the rounding of a gradient near zero.
PLAIN = {"sgd": True, "lr": 0.02, "steps": 2}


@pytest.fixture(scope="module")
def plainly(tmp_path_factory) -> Callable[[Case], dict[str, torch.Tensor]]:
    """The weights that a few plain gradient steps leave, in one piece on one rank."""
    found = {}

    def of(case: Case) -> dict[str, torch.Tensor]:
        if case not in found:
            one = stage(case, tmp_path_factory.mktemp("plainly"), **PLAIN)
            before = {name: p.detach().clone() for name, p in one.trained().named_parameters()}
            found[case] = dict(fit(one).trained().state_dict())
            moved = [name for name, p in before.items() if (found[case][name] - p).abs().max() > 1e-5]
            assert len(moved) > len(before) / 3, "what begins at zero hides what is before it for an update"
        return found[case]

    return of


def as_a_run(made: Stage) -> str:
    """The strategy of ldm.experiment.trainer."""
    return "ddp" if len(made.players()) == 1 else "ddp_find_unused_parameters_true"


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory) -> dict[str, list[dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    makes = {"-".join(case): partial(stage, case, folder, **PLAIN) for case in LEARNT}
    makes["in parts"] = partial(stage, COUPLED, folder, accumulate=2, **PLAIN)
    return each_on_two_ranks(folder, makes, as_a_run)


every = pytest.mark.parametrize("case", LEARNT, ids="-".join)


@every
def test_two_ranks_are_one(case, on_ranks, plainly):
    one, two = on_ranks["-".join(case)]
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    torch.testing.assert_close(one, plainly(case), atol=1e-5, rtol=1e-5)


def test_ranks_and_micro_batches_are_one_batch_to_a_coupling(on_ranks, plainly):
    torch.testing.assert_close(on_ranks["in parts"][0], plainly(COUPLED), atol=1e-5, rtol=1e-5)


SHARDED = ("cnf", "ebm", "maf", "mean_flow", "ot_flow")  # that ask their networks otherwise than a diffusion does


def test_sharded_ranks_are_one(tmp_path, plainly):
    cases = {"-".join(case): case for case in LEARNT if case[0] in SHARDED}
    makes = {name: partial(stage, case, tmp_path, **PLAIN) for name, case in cases.items()}
    assert all(make().model.prior.whole() is None for make in makes.values())
    for name, (one, _) in each_on_two_ranks(tmp_path, makes, lambda made: FullyShard()).items():
        torch.testing.assert_close(one, plainly(cases[name]), atol=1e-5, rtol=1e-5)


@every
def test_micro_batches_are_one_batch(case, tmp_path, plainly):
    parts = fit(stage(case, tmp_path, accumulate=2, **PLAIN))
    torch.testing.assert_close(dict(parts.trained().state_dict()), plainly(case), atol=1e-5, rtol=1e-5)


class Watch(L.Callback):
    """The weights at first and after each update."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, stage: Stage) -> None:
        self.weights.append({name: p.detach().clone() for name, p in stage.trained().named_parameters()})

    def on_train_batch_end(self, trainer: L.Trainer, stage: Stage, outputs: Any, batch: Any, index: int) -> None:
        self.on_train_start(trainer, stage)


def poison(stage: Stage) -> None:
    """Once, what each player loses is not a number."""

    def spoil(player: Any) -> None:
        inner = player.loss

        def loss(*arguments: Any) -> Any:
            player.loss = inner
            terms, told = inner(*arguments)
            return {name: term * torch.nan for name, term in terms.items()}, told

        player.loss = loss

    for player in stage._players:
        spoil(player)


def until(update: int, one: Stage, folder: Path, *callbacks: L.Callback) -> Stage:
    """Trained until so many updates are done; the second of all is not finite."""
    stop = At(update - 1, lambda stage: setattr(stage.stop, "raised", True))
    return fit(one, folder, *callbacks, At(1, poison), stop)


@every
def test_averages_resume_and_an_update_that_is_not_finite(case, tmp_path):
    watch = Watch()
    through = until(UPDATES, stage(case, tmp_path), tmp_path / "through", watch)
    assert through.updates == UPDATES and through._skipped.tolist() == [1, 0]

    before, first, second, third = watch.weights[:4]
    assert equal(first, second), "an update that is not finite moves nothing"
    assert not equal(before, first) and not equal(second, third), "others do"
    assert all(value.isfinite().all() for value in through.trained().state_dict().values())

    for name, average in through.average.named().items():
        wanted = before[name].double()
        for n, weights in enumerate(watch.weights[1:]):
            decay = min(0.75, (1 + n) / (10 + n))
            wanted = decay * wanted + (1 - decay) * weights[name].double()
        torch.testing.assert_close(average.double(), wanted, rtol=1e-5, atol=1e-6)

    until(2, stage(case, tmp_path), tmp_path / "parts")
    rest = until(UPDATES, stage(case, tmp_path), tmp_path / "parts")
    assert equal(result(rest), result(through)), "and a run that goes on is one that went through"


@every
def test_losses_in_bfloat16_are_finite(case, tmp_path):
    one = stage(case, tmp_path)
    [batch] = list(one.reads().loader(0, 1))
    random, shared = one.random(batch), {}
    one.trained().train()
    for player in one.players():
        with torch.autocast("cpu", torch.bfloat16):
            terms, values = player.loss(batch, random, shared)
        assert all(value.isfinite() for value in (*terms.values(), *values.values()))
        gradients = torch.autograd.grad(sum(terms.values()), player.parameters, allow_unused=True, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
