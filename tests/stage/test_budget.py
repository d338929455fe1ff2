"""Budgets: a stage ends when it has cost so much, and all that depends on its length follows the share that is spent."""

import itertools
import re

import pytest
import torch
from omegaconf import OmegaConf

from ldm.command.follow import limited_twice
from ldm.cost import FlopCounter
from ldm.run.checkpoint import Checkpoints
from ldm.stage.average import Powers
from ldm.stage.budget import Budget, Spent
from ldm.stage.clock import Clock
from ldm.stage.provenance import Begun, begun, fresh, limits, plan
from ldm.stage.rate import Cosine
from ldm.stage.settings import of_second
from ldm.stage.stage import Stage
from tests.runs import equal, rows, tiny
from tests.stage.test_provenance import settings
from tests.stage.tiny import At, data, first, fit, recipe, result, second
from tests.stage.two_ranks import on_two_ranks


class Ticks(Clock):
    """An update takes a second; nothing else takes time."""

    def tick(self) -> None:
        return

    def agree(self) -> None:
        self.seconds += 1


def timed(make, **options) -> Stage:
    stage = make(**options)
    stage.clock = Ticks()
    return stage


def test_positions_lengths_and_words_by_hand():
    hour = recipe(steps=1000, budget=Budget(seconds=60.0))
    assert [hour.position(7, Spent(28, s)) for s in (0.0, 15.0, 60.0, 61.0)] == [0, 250, 1000, 1000]
    assert hour.length(7, Spent(28, 15.0)) == 28 and hour.length(0, Spent()) == 1000, "four times what a quarter took"
    assert (hour.limit(), hour.standing(7, Spent(28, 15.0)), hour.expected(4)) == ("60 s", "7 updates, 15/60 s", 1000)
    images = recipe(steps=1000, budget=Budget(images=19))
    assert images.position(2, Spent(8)) == pytest.approx(1000 * 8 / 19) and images.expected(4) == 5
    assert (images.limit(), recipe(budget=Budget(flops=1e15)).limit()) == ("19 images", "1e+15 FLOPs")
    plain = recipe(steps=1000)
    assert (plain.position(7, Spent(9, 9.0)), plain.length(7, Spent()), plain.limit()) == (7, 1000, "1000 updates")
    with pytest.raises(ValueError, match=r"one budget, and here are seconds=60 and images=19; set the others to null"):
        Budget(seconds=60.0, images=19)


def test_rates_and_snapshots_follow_the_share_that_is_spent():
    """A warm-up of 100 of 1000 steps is a tenth of any budget; a cosine is at a half where half of the rest is spent."""
    hour = recipe(steps=1000, rate=Cosine(warmup=100), budget=Budget(seconds=60.0))
    factor = [hour.rate(hour.position(1, Spent(4, s)), hour.steps) for s in (3.0, 33.0, 60.0)]
    assert factor == pytest.approx([0.51, 0.5, 0.0], abs=1e-12)
    powers = Powers(torch.nn.Linear(1, 1), 4, 1000)
    moments = itertools.pairwise([0, 240, 260, 499, 760, 1000])
    assert [powers.due(now, before) for before, now in moments] == [False, True, False, True, True]


@pytest.mark.parametrize("make", [first, second])
def test_a_stage_of_six_seconds_is_one_of_six_updates_where_each_takes_one(make, tmp_path):
    """To the bit: rates, averages, snapshots, the validation at the end and what is logged."""
    whole = fit(make(snapshots=3), tmp_path / "updates")
    stage = fit(timed(make, snapshots=3, budget=Budget(seconds=6.0)), tmp_path / "seconds")
    assert stage.updates == 6 and stage.done and not stage.stopped
    own = result(stage)
    assert own.pop("spent") == {"images": 24, "seconds": 6.0, "flops": stage.flops.total, "cpu_seconds": 0.0}
    assert equal(own, result(whole)) and rows(tmp_path / "seconds") == rows(tmp_path / "updates")
    files = [sorted(path.name for path in (tmp_path / name / "snapshots").glob("*")) for name in ("updates", "seconds")]
    assert files[0] == files[1] and len(files[0]) > 6


class Busy(Ticks):
    """An update takes a second, of which a processor computes a half."""

    def agree(self) -> None:
        super().agree()
        self.cpu_seconds += 0.5


def test_cpu_seconds_end_a_stage_and_survive_its_end(tmp_path):
    """A process that computes half of the time trains twice as long; one that goes on has left what it had."""

    def make(**options) -> Stage:
        stage = second(steps=1000, budget=Budget(cpu_seconds=3.0), **options)
        stage.clock = Busy()
        return stage

    whole = fit(make(), tmp_path / "whole")
    assert (whole.updates, whole.spent.seconds, whole.spent.cpu_seconds) == (6, 6.0, 3.0)
    cut = fit(make(), tmp_path / "cut", At(2, lambda s: setattr(s.stop, "raised", True)))
    assert cut.updates < 6
    assert equal(result(fit(make(), tmp_path / "cut")), result(whole))
    assert whole.recipe.limit() == "3 CPU s"


def test_a_clock_counts_the_time_in_which_the_process_computes(monkeypatch):
    clock, now = Clock(), {"monotonic": 0.0, "process_time": 0.0}
    for name in now:
        monkeypatch.setattr(f"ldm.stage.clock.time.{name}", lambda name=name: now[name])
    clock.begin()
    now |= {"monotonic": 10.0, "process_time": 4.0}
    clock.tick()
    now |= {"monotonic": 15.0, "process_time": 9.0}  # a picture, say
    clock.go_on()
    now |= {"monotonic": 17.0, "process_time": 10.0}
    clock.tick()
    assert (clock.seconds, clock.cpu_seconds) == (12.0, 5.0)


def test_images_and_operations_end_a_stage_with_the_update_that_spends_them(tmp_path):
    images = fit(first(steps=1000, budget=Budget(images=19)), tmp_path)
    assert images.updates == 5 and images.done, "of 4 images each"
    of_one = fit(first(steps=1)).flops.total
    assert of_one > 0 and fit(first(steps=1000, budget=Budget(flops=2.5 * of_one))).updates == 3
    assert rows(tmp_path)[-1]["step"] == 5, "what is logged at the end is"


def test_operations_that_cannot_be_counted_are_told_after_the_first_update(monkeypatch):
    def counts_nothing(self, func, types, args=(), kwargs=None):
        return func(*args, **kwargs or {})

    monkeypatch.setattr(FlopCounter, "__torch_dispatch__", counts_nothing)
    with pytest.raises(ValueError, match=r"first\.budget\.flops: .* take first\.budget\.seconds or \.images"):
        fit(first(budget=Budget(flops=1.0)))


def test_a_budget_of_seconds_goes_on_where_it_was(tmp_path):
    """Cut by a signal, with the same clock: equal to the bit, and at its end nothing more is trained."""
    options = {"steps": 100, "budget": Budget(seconds=12.0), "rate": Cosine(warmup=30)}
    whole = fit(timed(second, **options), tmp_path / "whole")
    cut = fit(timed(second, **options), tmp_path / "cut", At(4, lambda s: setattr(s.stop, "raised", True)))
    assert cut.stopped and (cut.updates, cut.spent) == (5, Spent(20, 5.0, float(cut.flops.total)))
    rest = fit(timed(second, **options), tmp_path / "cut")
    assert rest.updates == 12 and equal(result(rest), result(whole))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert fit(timed(second, **options), tmp_path / "cut").updates == 12, "its time is over"
    longer = fit(timed(second, **(options | {"budget": Budget(seconds=14.0)})), tmp_path / "cut")
    assert longer.updates == 14 and not longer.stopped


class Skewed(Clock):
    """Of a rank: rank 0's is at one second an update, the other's at three."""

    def tick(self) -> None:
        self.seconds += 1 + 2 * torch.distributed.get_rank()


def test_rank_0_decides_when_the_time_is_over(tmp_path):
    def make() -> Stage:
        stage = first(log_every=100, budget=Budget(seconds=5.0))
        stage.clock = Skewed()
        return stage

    one, two = on_two_ranks(tmp_path, make)
    assert equal(one, two)


def test_a_checkpoint_says_what_its_updates_have_cost(tmp_path):
    stage = timed(first, steps=100, budget=Budget(seconds=3.0))
    fit(stage, tmp_path)
    stage.history = fresh(settings() | {"data": {"batch_size": 4}})
    stage.save()
    kept = Checkpoints(tmp_path / "first")
    assert begun(kept).spent == Spent(12, 3.0, float(stage.flops.total))
    kept.prune(3, stage.history, {"images": 12, "seconds": 3.0, "flops": 0.0})
    assert begun(kept) == Begun(3, stage.history, pruned=True, spent=Spent(12, 3.0))
    kept.prune(3, stage.history)
    assert begun(kept).spent == Spent(12), "of an older one, by the size of a batch"


def of_seconds(seconds: float, **more) -> dict:
    found = settings(**more)
    found["second"]["budget"] = {"_target_": "ldm.stage.budget.Budget", "seconds": seconds}
    return found


def test_no_budget_is_no_setting(tmp_path):
    """So that what was trained before there were budgets is found in a store, and goes on."""
    config = tiny(tmp_path)
    assert "budget" not in of_second(config, data(), fresh({}), None)["second"]
    config["second"]["budget"]["images"] = 12
    assert of_second(config, data(), fresh({}), None)["second"]["budget"]["images"] == 12


def test_a_typed_number_of_updates_beside_a_budget_is_told():
    config = OmegaConf.create(
        {"first": {"budget": {"_target_": "x", "images": None}}, "second": {"budget": {"seconds": 60}}}
    )
    said = "second.steps=500 and second.budget.seconds=60: a stage ends by one of them; leave out second.steps, or say "
    assert limited_twice(config, ["++second.steps=500"]) == f"{said}second.budget.seconds=null"
    assert limited_twice(config, ["++first.steps=500", "second.clip=1", "prior.steps=3"]) is None


def test_a_plan_knows_what_is_left_of_a_budget():
    there = Begun(50, fresh(of_seconds(60.0)), spent=Spent(200, 60.2))
    assert limits(fresh({"autoencoder": {}}), there.history) == {"second": "60 s"}
    assert limits(fresh({"first": settings()["second"]}), fresh({"second": {}})) == {"first": "4 updates"}
    same = plan("second", there, of_seconds(60.0))
    assert same.finished and not same.refused and not same.changed
    longer = plan("second", there, of_seconds(90.0))
    assert not longer.finished and longer.changed == ("second.budget.seconds=90.0 (was 60.0)",) and not longer.refused
    shorter = plan("second", there, of_seconds(30.0))
    assert shorter.refused == ("second.budget.seconds=30.0 (was 60.0)",)
    steps = plan("second", Begun(4, fresh(settings()), spent=Spent(16, 2.0)), of_seconds(60.0))
    assert not steps.finished and re.match(r"second\.budget=\{.*60", steps.changed[0])
    assert len(steps.history) == 2, "what updates were by number is not what they would have been by seconds"
    left = plan("second", Begun(50, there.history, pruned=True, spent=there.spent), of_seconds(90.0))
    assert left.refused[0].startswith("second.budget of 90 s (finished with 50 and keep=model")
