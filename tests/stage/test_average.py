"""Averages of weights have closed forms; those of power functions are stored, and others rebuilt from them."""

import logging
import math

import pytest
import torch
from safetensors.torch import load_file

from ldm.run.checkpoint import Checkpoints
from ldm.run.snapshots import Snapshots, exponent
from ldm.stage.average import Average, Power, Powers, WarmUp
from tests.runs import equal
from tests.stage.tiny import At, fit, result, second


@pytest.mark.parametrize(("decay", "steps"), [(0.999, 10_000), (0.5, 1000), (0.999, 40)])
def test_average_is_its_closed_form(decay, steps):
    module = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(0.0)
    average, wanted, bound = Average(module, WarmUp(decay, steps)), 0.0, min(decay, 1 - 10 / steps)
    for n in range(60):
        with torch.no_grad():
            module.weight.fill_(n + 1)
        average.update()
        d = min(bound, (1 + n) / (10 + n))
        wanted = d * wanted + (1 - d) * (n + 1)
    assert average.weights[0].item() == pytest.approx(wanted, rel=1e-12)
    with average.applied():
        assert module.weight.item() == pytest.approx(wanted)
    assert module.weight.item() == 60
    average.keep()
    assert module.weight.item() == pytest.approx(wanted)


def test_average_in_warm_up_is_a_known_mean():
    """With d_n = (1 + n) / (10 + n) the weight of update m falls like a power: after N of them the first value has
    the product of d_n left, (N! 9!) / (N + 9)!."""
    module = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.ones_(module.weight)
    average = Average(module, WarmUp(1.0, 10**9))
    with torch.no_grad():
        module.weight.zero_()
    for _ in range(20):
        average.update()
    assert average.weights[0].item() == pytest.approx(math.factorial(20) * math.factorial(9) / math.factorial(29))


def test_an_average_of_something_else_is_refused():
    average = Average(torch.nn.Linear(1, 1), WarmUp(0.9, 10))
    with pytest.raises(ValueError, match="another model"):
        average.load_state_dict({"updates": 1, "weights": {"other": torch.zeros(1)}})


def test_the_block_of_averaged_weights_ends_well_or_not():
    module = torch.nn.Linear(1, 1)
    average, raw = Average(module, WarmUp(0.9, 10)), module.weight.detach().clone()
    with pytest.raises(KeyError), average.applied():
        module.weight.data.fill_(7)
        raise KeyError
    assert torch.equal(module.weight, raw)


@pytest.mark.parametrize("width", [0.05, 0.10, 0.25])
def test_power_average_of_a_line_is_its_closed_form(width):
    """theta_u = u has weight (u^(g+1) - (u-1)^(g+1)) / t^(g+1): by parts t - sum_{u < t} (u / t)^(g+1), and the start
    none."""
    module = torch.nn.Linear(1, 1, bias=False).double()
    average, g = Average(module, Power(width)), exponent(width)
    for t in range(1, 200):
        torch.nn.init.constant_(module.weight, t)
        average.update()
        wanted = t - sum((u / t) ** (g + 1) for u in range(1, t))
        assert average.weights[0].item() == pytest.approx(wanted, rel=1e-12)
    assert average.weights[0].item() == pytest.approx(199 * (g + 1) / (g + 2), rel=0.01), "the integral's value"


def walk(folder, steps: int = 400, count: int = 8, widths=(0.03, 0.05, 0.07, 0.10, 0.15)) -> tuple[dict, dict]:
    """A random walk of 256 weights from far away: snapshots in `folder`, and widths tracked all the way."""
    torch.manual_seed(0)
    module = torch.nn.Linear(256, 1, bias=False)
    torch.nn.init.constant_(module.weight, 30.0)
    powers, direct = Powers(module, count, steps), {width: Average(module, Power(width)) for width in widths}
    for t in range(1, steps + 1):
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        powers.update()
        for average in direct.values():
            average.update()
        if powers.due(t, t - 1):
            for width, average in powers.averages.items():
                Snapshots(folder).save(t, width, average.named(), last=t == steps)
    return {width: average.named()["weight"] for width, average in direct.items()}, Snapshots(folder).files()


def test_averages_of_any_width_are_rebuilt(tmp_path, caplog):
    """The error is told as a share of how far the two averages that are kept lie apart."""
    direct, files = walk(tmp_path)
    assert list(files) == [(t, width) for t in range(50, 401, 50) for width in (0.05, 0.10)]
    apart = (direct[0.10] - direct[0.05]).norm()

    def error(width):
        return ((Snapshots(tmp_path).rebuild(width)["weight"] - direct[width]).norm() / apart).item()

    assert error(0.05) < 1e-5 and error(0.10) < 1e-5
    with caplog.at_level(logging.INFO):
        assert 1e-3 < error(0.07) < 0.01
    assert "width 0.07 from 16 snapshots" in caplog.text
    assert error(0.15) < 0.02 and error(0.03) < 0.1


def test_a_weight_that_never_moved_is_rebuilt_as_it_was(tmp_path):
    """Least squares alone would shrink it: with 4 snapshots by 9 per cent at width 0.2."""
    for t in range(1, 5):
        for width in Powers.WIDTHS:
            Snapshots(tmp_path).save(t, width, {"weight": torch.full((3,), 7.0)})
    for width in (0.02, 0.07, 0.2):
        torch.testing.assert_close(Snapshots(tmp_path).rebuild(width), {"weight": torch.full((3,), 7.0)})


def stored(folder) -> dict:
    return {key: load_file(file) for key, file in Snapshots(folder / "snapshots").files().items()}


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_snapshots_of_a_run_that_went_on_are_those_of_one_that_went_through(cut, tmp_path):
    def stop(stage):
        stage.stop.raised = True

    whole = fit(second(snapshots=3), tmp_path / "whole")
    part = fit(second(snapshots=3), tmp_path / "cut", At(cut - 1, stop))
    assert part.updates == cut
    if cut == 3:  # one of a later update, and one as a crash leaves it
        Snapshots(tmp_path / "cut" / "snapshots").save(4, 0.05, {"other": torch.zeros(1)})
        Snapshots(tmp_path / "cut" / "snapshots").save(5, 0.05, {"other": torch.zeros(1)})
    rest = fit(second(snapshots=3), tmp_path / "cut")
    assert equal(stored(tmp_path / "cut"), stored(tmp_path / "whole")) and equal(result(rest), result(whole))
    assert list(stored(tmp_path / "whole")) == [(t, width) for t in (2, 4, 6) for width in (0.05, 0.10)]
    assert equal(stored(tmp_path / "cut")[6, 0.10], rest.powers.averages[0.10].named())


def test_snapshots_only_watch(tmp_path):
    """A run with them is the run without."""
    with_, without = fit(second(snapshots=2), tmp_path / "a"), fit(second(), tmp_path / "b")
    one, other = result(with_), result(without)
    assert other.pop("powers") == {} and one.pop("powers").keys() == {0.05, 0.10}
    assert equal(one, other) and not stored(tmp_path / "b")
    assert all(average.updates == 6 for average in with_.powers.averages.values()), "of all updates"
    assert equal(Checkpoints(tmp_path / "a" / "second").load()[1]["powers"], with_.powers.state_dict())


def test_a_run_begun_without_snapshots_goes_on_without(tmp_path, caplog):
    def stop(stage):
        stage.stop.raised = True

    fit(second(), tmp_path, At(2, stop))
    rest = fit(second(snapshots=2), tmp_path)
    assert rest.updates == 6 and result(rest)["powers"] == {} and not stored(tmp_path)
    assert "goes on without" in caplog.text


@pytest.mark.parametrize(("count", "steps"), [(8, 400), (3, 7), (8, 5), (1, 9)])
def test_snapshots_are_spread_over_the_run_and_end_with_it(count, steps):
    powers = Powers(torch.nn.Linear(1, 1), count, steps)
    moments = [t for t in range(1, steps + 1) if powers.due(t, t - 1)]
    assert len(moments) == min(count, steps) and moments[-1] == steps
    gaps = [b - a for a, b in zip([0, *moments], moments, strict=False)]
    assert max(gaps) - min(gaps) <= 1
