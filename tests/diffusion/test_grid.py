"""Laws of every grid under every schedule, and the three of diffusers' `timestep_spacing`."""

import itertools

import numpy as np
import pytest
import torch

from ldm.diffusion.grid import Custom, Karras, LogSNR, Shifted, Trailing, Uniform
from ldm.diffusion.schedule import Exploding
from ldm.diffusion.schedule import Shifted as ShiftedSchedule
from tests.pieces import pieces

SCHEDULES, GRIDS = pieces("diffusion/schedule"), pieces("diffusion/grid")


@pytest.mark.parametrize(("grid", "schedule"), list(itertools.product(GRIDS, SCHEDULES)))
def test_grids_fall_to_zero(grid, schedule):
    for steps in (1, 7, 50, 1000):
        times = GRIDS[grid]()(SCHEDULES[schedule](), steps)
        assert len(times) == steps + 1 and times[-1] == 0 and (times.diff() < 0).all() and times[0] <= 1
        assert times.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize(("grid", "schedule"), list(itertools.product(GRIDS, SCHEDULES)))
def test_a_grid_does_not_ask_where_the_schedule_is(grid, schedule):
    schedule = SCHEDULES[schedule]()
    wanted = GRIDS[grid]()(schedule, 9)
    found = GRIDS[grid]()(schedule.cuda(), 9)
    assert found.device.type == "cpu" and torch.allclose(found, wanted)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 7, 20, 50, 1000])
def test_spacings_are_diffusers(spacing, steps):
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if steps < 1000 else 0)
    peer.set_timesteps(steps)
    grid = GRIDS[spacing](offset=peer.config.steps_offset) if spacing == "leading" else GRIDS[spacing]()
    found = grid(SCHEDULES["scaled_linear"](), steps)
    assert torch.equal((found[:-1] * 1000).round() - 1, peer.timesteps.float())


def test_trailing_is_uniform_where_steps_divide_the_table():
    schedule = SCHEDULES["linear"]()
    assert torch.equal(Trailing()(schedule, 50), Uniform()(schedule, 50))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_more_steps_than_the_table_has_are_refused(spacing):
    with pytest.raises(ValueError, match="1001 steps of a table of 1000"):
        GRIDS[spacing]()(SCHEDULES["linear"](), 1001)


def levels(schedule, times):
    """sigma / alpha at all times but the last."""
    return torch.exp(schedule.log_snr(times[:-1].double()) / -2)


def test_karras_is_equation_5():
    """And, with the same ends, diffusers'."""
    schedule, (low, high, rho, n) = Exploding(0.002, 80.0), (0.002, 80.0, 7.0, 18)
    found = levels(schedule, Karras()(schedule, n))
    wanted = (high ** (1 / rho) + np.arange(n) / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert np.allclose(found, wanted, rtol=1e-4)

    diffusers = pytest.importorskip("diffusers")
    table = SCHEDULES["scaled_linear"]()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    peer = diffusers.EulerDiscreteScheduler(**betas, use_karras_sigmas=True)
    peer.set_timesteps(n)
    found = levels(table, Karras(sigma_min=peer.sigmas[-2].item())(table, n))
    assert torch.allclose(found.float(), peer.sigmas[:-1], rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_reach_as_far_as_both_say(name):
    """From the end of the schedule or the greatest level given, whichever comes first; log_snr in equal steps."""
    schedule = SCHEDULES[name]()
    for grid in (LogSNR(0.1, 2.0), Karras(3.0, 0.1, 2.0)):
        found = levels(schedule, grid(schedule, 10))
        assert torch.allclose(found[[0, -1]], torch.tensor([2.0, 0.1], dtype=torch.float64), rtol=1e-5)
    whole = LogSNR(1e-9, 1e9)(schedule, 10)
    assert whole[0] > 0.999 and whole[-2] < 2e-6
    steps = levels(schedule, LogSNR(0.1, 2.0)(schedule, 10)).log().diff()
    assert torch.allclose(steps, steps.mean().expand(9), atol=1e-4)


def test_levels_that_a_schedule_has_not_are_refused():
    with pytest.raises(ValueError, match=r"sigma_min=100.0 .* of Exploding, from 0.002 to 80"):
        LogSNR(100.0, 200.0)(Exploding(), 5)


def test_a_shifted_grid_on_the_straight_path_is_a_shifted_schedule():
    """Noise level by noise level (arXiv 2403.03206, section 5.3.2)."""
    straight = SCHEDULES["rectified"]()
    found = straight.log_snr(Shifted(Uniform(), 3.0)(straight, 20)[1:-1].double())
    wanted = ShiftedSchedule(straight, 3.0).log_snr(Uniform()(straight, 20)[1:-1].double())
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_list_is_taken_as_it_stands_or_as_a_curve():
    times, schedule = (0.9, 0.5, 0.4, 0.0), SCHEDULES["cosine"]()
    assert torch.equal(Custom(times)(schedule, 3), torch.tensor(times))
    assert torch.allclose(Custom(times)(schedule, 6), torch.tensor([0.9, 0.7, 0.5, 0.45, 0.4, 0.2, 0.0]))
    assert torch.allclose(Custom(times)(schedule, 1), torch.tensor([0.9, 0.0]))


@pytest.mark.parametrize("times", [(0.0,), (0.5, 0.5, 0.0), (0.2, 0.5, 0.0), (1.0, 0.5)])
def test_a_list_that_is_no_grid_is_refused(times):
    with pytest.raises(ValueError, match="strictly decreasing and end at 0"):
        Custom(times)


@pytest.mark.parametrize(("grid", "schedule"), list(itertools.product(GRIDS, SCHEDULES)))
@pytest.mark.parametrize("lowest", [1e-3, 0.05])
def test_no_step_begins_below_what_was_trained(grid, schedule, lowest):
    """However fine the grid; it still begins where it did, falls, and ends at 0."""
    schedule = SCHEDULES[schedule]()
    for steps in (2, 7, 50, 1000):
        times, free = GRIDS[grid]()(schedule, steps, lowest), GRIDS[grid]()(schedule, steps)
        assert (times[:-1] >= np.float32(lowest) - 1e-7).all() and times[-1] == 0 and (times.diff() < 0).all()
        assert torch.equal(times[0], free[0])
        if free[-2] < lowest:
            assert times[-2].item() == pytest.approx(lowest, rel=1e-4)


@pytest.mark.parametrize("name", ["karras", "log_snr"])
def test_levels_end_where_training_does(name):
    """On the sigmoid schedule trained from t = 0.001, sigma / alpha 0.0173: its own law from 80 to there, and not the tail of
    one that goes on to 0.002."""
    schedule = SCHEDULES["sigmoid"]()
    least = torch.exp(-schedule.log_snr(torch.tensor([1e-3]).double()) / 2).item()
    assert least == pytest.approx(0.0173, rel=1e-2)
    found, whole = (levels(schedule, GRIDS[name]()(schedule, 20, lowest)) for lowest in (1e-3, 0.0))
    assert (
        found[-1].item() == pytest.approx(least, rel=1e-3)
        and (whole < 0.99 * least).sum() == {"karras": 2, "log_snr": 4}[name]
    )
    steps = (found ** (1 / 7) if name == "karras" else found.log()).diff()
    torch.testing.assert_close(steps, steps.mean().expand(19), rtol=2e-2, atol=0)


def test_a_grid_in_times_is_drawn_together():
    """Ten steps of 0.1 whose last one began at 0.1, and now at 0.28: nine parts of 0.72."""
    found = Uniform()(SCHEDULES["cosine"](), 10, 0.28)
    assert torch.allclose(found[:-1], torch.linspace(1, 0.28, 10)) and found[-1] == 0
    assert torch.equal(Uniform()(SCHEDULES["cosine"](), 10, 0.1), Uniform()(SCHEDULES["cosine"](), 10))
    shifted = Shifted(LogSNR(), 3.0)(SCHEDULES["rectified"](), 9, 0.25)  # 0.25 is 0.1 of the grid within
    within = LogSNR()(SCHEDULES["rectified"](), 9, 0.1)
    assert torch.allclose(shifted, 3 * within / (1 + 2 * within))


def test_a_grid_that_begins_below_what_was_trained_is_refused():
    with pytest.raises(
        ValueError, match=r"begins at t = 0.02 and the lowest time that was trained is 0.05: begin later"
    ):
        Uniform(start=0.02)(SCHEDULES["cosine"](), 5, 0.05)
