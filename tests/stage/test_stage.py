"""The laws of training: exact resume, updates that mean the same however they are computed, a game that is fair."""

import math
import signal

import pytest
import torch

from ldm.data.module import DataModule
from ldm.run.checkpoint import Checkpoints
from ldm.run.signals import Diverged
from ldm.stage.rate import Constant, Cosine, Linear
from tests.runs import equal, rows
from tests.stage.tiny import At, first, fit, recipe, result, second


@pytest.fixture(autouse=True)
def handlers():
    """A stage takes the process's signals; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


KINDS = {
    "first": lambda **options: first(**options),
    "critic": lambda **options: first(critic_start=1, heard=2, **options),
    "second": lambda **options: second(**options),
    "aligned": lambda dropout=0.2, **options: second(aligned=0.5, cached=True, dropout=dropout, **options),
}


def weights(module) -> dict:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def close(a, b, tolerance=1e-5) -> bool:
    return a.keys() == b.keys() and all(
        (a[k].float() - b[k].float()).abs().max() <= tolerance for k in a if a[k].numel()
    )


def stop(stage) -> None:
    stage.stop.raised = True


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_something_and_is_repeatable(kind, tmp_path):
    before = weights(KINDS[kind]().trained())
    one, two = (fit(KINDS[kind](), tmp_path / name) for name in "ab")
    assert one.updates == 6 and not one.stopped
    assert equal(result(one), result(two)) and rows(tmp_path / "a") == rows(tmp_path / "b")
    assert not close(weights(one.trained()), before, 1e-3)
    steps = {(row["step"], "loss" in row, any(key.startswith("val") for key in row)) for row in rows(tmp_path / "a")}
    assert steps == {(2, True, False), (4, True, False), (6, True, False), (3, False, True), (6, False, True)}
    other = fit(KINDS[kind](seed=1))
    assert not equal(result(one)["weights"], result(other)["weights"])


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_equals_going_through(kind, tmp_path):
    """Stopped after any update, with logs, validation and the critic's start before or behind; long enough that the average
    is not the weights of the last update."""
    whole = fit(KINDS[kind](steps=12), tmp_path / "whole")
    assert not equal(whole.average.named(), dict(whole.averaged().named_parameters()))
    for cut in (1, 2, 3, 5, 11):
        part = fit(KINDS[kind](steps=12), tmp_path / str(cut), At(cut - 1, stop))
        assert part.stopped and part.updates == cut
        assert Checkpoints(tmp_path / str(cut) / part.name).steps() == [cut]
        rest = fit(KINDS[kind](steps=12), tmp_path / str(cut))
        assert rest.updates == 12 and not rest.stopped
        assert equal(result(rest), result(whole))
        assert rows(tmp_path / str(cut)) == rows(tmp_path / "whole")


def test_a_loss_scale_goes_on_too(tmp_path):
    """In float16 the scale halves until gradients fit, then grows; a run that goes on has it where it was."""
    options = {"steps": 12, "log_every": 1}
    whole = fit(second(**options), tmp_path / "whole", half=True)
    skipped = [row["skipped"] for row in rows(tmp_path / "whole") if "skipped" in row]
    assert 0 < skipped[-1] < 9 and skipped[0] == 1, "it was too large at first, and not for ever"
    assert result(whole)["scaler"]["scale"] < 2.0**22
    for cut in (2, 8):
        fit(second(**options), tmp_path / str(cut), At(cut - 1, stop), half=True)
        rest = fit(second(**options), tmp_path / str(cut), half=True)
        assert equal(result(rest), result(whole)) and rows(tmp_path / str(cut)) == rows(tmp_path / "whole")


def test_the_state_of_another_network_is_refused_in_a_line(tmp_path):
    fit(first(steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"the checkpoint of update 2 does not fit .*critic.* is missing") as caught:
        fit(first(critic_start=0, steps=4), tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).count(";") <= 4


def test_what_fails_between_updates_is_saved_first(tmp_path):
    """As Experiment does when a data worker dies; an update that failed half-way is not saved."""

    def crash(stage):
        raise RuntimeError("the worker died")

    for at, kept in ((3, 3), (4, 4)):
        stage = first(steps=6)
        with pytest.raises(RuntimeError, match="the worker died"):
            fit(stage, tmp_path / str(at), At(at, crash))
        stage.rescue()
        assert Checkpoints(tmp_path / str(at) / "first").steps() == [kept]
    stage = first(steps=6)
    with pytest.raises(RuntimeError, match="the worker died"):
        fit(stage, tmp_path / "half", At(3, lambda s: setattr(s._players[0], "loss", lambda *_: crash(s))))
    stage.rescue()
    assert Checkpoints(tmp_path / "half" / "first").steps() == []


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    def spoil(stage):
        stage.average.weights[0].fill_(math.nan)

    with pytest.raises(Diverged, match="not finite"):
        fit(first(steps=6, save_every=2), tmp_path, At(3, spoil))
    assert Checkpoints(tmp_path / "first").steps() == [2]


def test_going_on_from_an_older_checkpoint(tmp_path):
    """A crash after update 5 with a checkpoint of 4: what was logged since is logged again, once."""

    def crash(stage):
        raise KeyboardInterrupt

    whole = fit(first(save_every=2), tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(first(save_every=2), tmp_path / "cut", At(5, crash))
    assert Checkpoints(tmp_path / "cut" / "first").steps() == [2, 4]
    rest = fit(first(save_every=2), tmp_path / "cut")
    assert equal(result(rest), result(whole)) and rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_crash_before_the_first_checkpoint_leaves_no_row_twice(tmp_path):
    def crash(stage):
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(first(log_every=1), tmp_path, At(3, crash))
    fit(first(log_every=1), tmp_path)
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_a_finished_stage_has_nothing_to_do(tmp_path):
    done = fit(second(), tmp_path)
    before = rows(tmp_path)
    again = fit(second(), tmp_path, At(6, lambda stage: pytest.fail("a step after the last")))
    assert equal(result(again), result(done)) and rows(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_accumulating_changes_nothing(kind, tmp_path):
    """The same global batch in one piece, in two and in four. By plain gradient steps: Adam's first ones are signs, and
    blow up the rounding of a gradient that is almost zero."""
    still = {"dropout": 0.0} if kind == "aligned" else {}  # torch's generator knows of parts
    whole = fit(KINDS[kind](sgd=True, lr=0.1, **still), tmp_path / "1")
    for parts in (2, 4):
        split = fit(KINDS[kind](accumulate=parts, sgd=True, lr=0.1, **still), tmp_path / str(parts))
        assert split.updates == 6
        assert close(weights(split.trained()), weights(whole.trained()))
        assert close(split.average.state_dict()["weights"], whole.average.state_dict()["weights"])
        for one, other in zip(rows(tmp_path / "1"), rows(tmp_path / str(parts)), strict=True):
            assert one.keys() == other.keys() and (one["step"], one["images"]) == (other["step"], other["images"])
            assert all(math.isclose(one[k], other[k], rel_tol=1e-3, abs_tol=1e-4) for k in ("loss",) if k in one)


def test_the_critic_waits_for_its_start_and_then_moves():
    start = weights(first(critic_start=3).loss.adversarial.critic)
    seen = []
    looks = [At(k, lambda stage: seen.append(weights(stage.loss.adversarial.critic))) for k in range(6)]
    stage = fit(first(critic_start=3, heard=4), None, *looks)
    assert all(equal(each, start) for each in seen[:4]), "updates 0, 1 and 2 leave it alone"
    assert not close(seen[4], start, 1e-6) and not close(seen[5], seen[4], 1e-6)
    assert len(stage._players) == 2


def test_until_the_critic_is_heard_the_autoencoder_does_not_know_of_it():
    """With a critic that learns from the first update, and without one, the same autoencoder."""
    alone, watched = fit(first(steps=4)), fit(first(critic_start=0, heard=100, steps=4))
    assert equal(weights(alone.autoencoder), weights(watched.autoencoder))
    heard = fit(first(critic_start=0, heard=1, steps=4))
    assert not equal(weights(alone.autoencoder), weights(heard.autoencoder))


def test_players_leave_no_gradient_on_each_other(tmp_path):
    """After each player's backward pass, only its own parameters have gradients."""
    seen = []

    def watch(stage):
        for player in stage._players:

            def loss(*arguments, player=player, inner=player.loss):
                others = [p for each in stage._players if each is not player for p in each.parameters]
                assert not any(p.requires_grad for p in others), "the others take no gradient"
                terms, values = inner(*arguments)
                names = ["autoencoder", "critic"]
                seen.append(names.index(player.name))
                total = sum(terms.values())
                grads = torch.autograd.grad(total, player.parameters, retain_graph=True, allow_unused=True)
                assert any(g is not None and g.abs().max() > 0 for g in grads)
                return terms, values

            player.loss = loss

        for player in stage._players:
            inner_step = player.step

            def step(clip, scaler, player=player, inner_step=inner_step):
                norms.append((player.name, [p.grad is not None for p in player.parameters]))
                return inner_step(clip, scaler)

            player.step = step

    norms = []
    stage = fit(first(critic_start=0, heard=1, steps=3), None, At(0, watch))
    assert seen == [0, 1] * 3 and [name for name, _ in norms] == ["autoencoder", "critic"] * 3
    parameters = [p for player in stage._players for p in player.parameters]
    assert all(p.grad is None for p in parameters) and all(p.requires_grad for p in parameters)
    assert len({id(p) for p in parameters}) == len(parameters), "players are disjoint"


def poison(stage) -> None:
    """Once, the first player's loss is not a number."""
    player, inner = stage._players[0], stage._players[0].loss

    def loss(*arguments):
        player.loss = inner
        terms, values = inner(*arguments)
        return {name: term * math.nan for name, term in terms.items()}, values

    player.loss = loss


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_that_is_not_finite_moves_nothing_and_is_counted(kind, fused, tmp_path):
    before, after = [], []
    looks = [
        At(3, lambda s: before.append(weights(s.averaged()))),
        At(4, lambda s: after.append(weights(s.averaged()))),
    ]
    stage = fit(KINDS[kind](fused=fused, log_every=1), tmp_path, *looks, At(3, poison))
    assert equal(before, after), "update 3 leaves the weights as they were"
    assert all(value.isfinite().all() for value in weights(stage.trained()).values())
    assert all(value.isfinite().all() for value in stage.average.state_dict()["weights"].values())
    skipped = [row["skipped"] for row in rows(tmp_path) if "skipped" in row]
    assert skipped == [0, 0, 0, 1, 1, 1] and stage.updates == 6
    assert all(math.isfinite(value) for row in rows(tmp_path) for value in row.values() if isinstance(value, float))
    assert not close(after[0], weights(stage.averaged()), 1e-6), "and the next ones move them again"


def test_patience_ends_with_diverged(tmp_path):
    acts = [At(k, poison) for k in (2, 3, 4)]
    with pytest.raises(Diverged, match=r"3 updates in a row up to 5"):
        fit(first(patience=3, log_every=1, save_every=2, steps=9), tmp_path, *acts)
    assert Checkpoints(tmp_path / "first").load()[0] == 4, "the last checkpoint is whole"


def test_patience_counts_only_those_in_a_row(tmp_path):
    acts = [At(k, poison) for k in (1, 2, 4, 5, 7)]
    stage = fit(first(patience=3, log_every=1, steps=9), tmp_path, *acts)
    assert stage.updates == 9 and rows(tmp_path)[-1 if "skipped" in rows(tmp_path)[-1] else -2]["skipped"] == 5


def test_gradients_are_clipped():
    """The first update of SGD at rate 1 is the clipped gradient itself."""
    stage = first(clip=0.01, steps=1, sgd=True, lr=1.0)
    object.__setattr__(stage.recipe, "rate", Constant())
    before = [p.detach().clone() for p in stage.players()[0].parameters]
    fit(stage)
    moved = torch.cat([(a - b.detach()).flatten() for a, b in zip(before, stage._players[0].parameters, strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_signal_stops_at_the_boundary_of_an_update(tmp_path):
    stage = fit(second(accumulate=2), tmp_path, At(2, stop))
    assert stage.stopped and stage.updates == 3 and Checkpoints(tmp_path / "second").load()[0] == 3


def test_a_signal_in_the_last_update_is_no_stop(tmp_path):
    stage = fit(second(), tmp_path, At(5, stop))
    assert not stage.stopped and stage.updates == 6 and Checkpoints(tmp_path / "second").load()[0] == 6


def test_validation_does_not_disturb_training(tmp_path):
    """It draws nothing from what training draws, its numbers repeat at the same weights, and it leaves the network in the mode
    of training."""
    found = []

    def twice(stage):
        for _ in range(2):
            found.append((stage.validate(4), stage.averaged().training))

    one = fit(second(validate_every=1), tmp_path / "a", At(3, twice))
    other = fit(second(validate_every=0), tmp_path / "b")
    assert equal(result(one), result(other))
    assert found[0] == found[1] and found[0][1] is True and found[0][0]
    assert sum(any(key.startswith("val ") for key in row) for row in rows(tmp_path / "a")) == 6 + 2
    assert not any(key.startswith("val ") for row in rows(tmp_path / "b") for key in row)


def test_a_validation_reads_its_share_once_and_all_at_the_end(tmp_path, monkeypatch):
    asked, val_loader = [], DataModule.val_loader

    def told(self, *arguments):
        asked.append([])
        for batch in val_loader(self, *arguments):
            asked[-1] += batch["index"].tolist()
            yield batch

    monkeypatch.setattr(DataModule, "val_loader", told)
    fit(second(steps=6, validate_every=3, validate_images=2), tmp_path)
    assert asked == [[0, 2], [0, 1, 2, 3, 4]]


def test_the_second_stage_leaves_the_first_alone():
    stage = second()
    before = weights(stage.model.autoencoder)
    fit(stage)
    assert equal(weights(stage.model.autoencoder), before)


# Rates have closed forms.


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_rates_are_their_closed_forms(final):
    steps, warmup = 110, 10
    shapes = {Constant: lambda u: 1, Linear: lambda u: 1 - u, Cosine: lambda u: (1 + math.cos(math.pi * u)) / 2}
    for kind, shape in shapes.items():
        rate = kind(warmup, final)
        for k in range(warmup):
            assert rate(k, steps) == pytest.approx((k + 1) / warmup)
        for k in range(warmup, steps + 1):
            assert rate(k, steps) == pytest.approx(final + (1 - final) * shape((k - warmup) / 100))
        assert kind(0, final)(0, steps) == 1 and kind(200, final)(50, steps) == pytest.approx(51 / 200)


def test_the_rate_of_an_update_is_what_the_journal_says(tmp_path):
    stage = fit(first(log_every=1, lr=1e-2), tmp_path)
    logged = [row["rate"] for row in rows(tmp_path) if "rate" in row]
    assert logged == pytest.approx([1e-2 * stage.recipe.rate(k, 6) for k in range(6)])


def test_a_recipe_is_fixed():
    with pytest.raises(AttributeError, match="steps"):
        recipe().steps = 3
