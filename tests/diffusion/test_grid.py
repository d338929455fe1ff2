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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
